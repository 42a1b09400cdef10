# ruff: noqa
# fmt: off
# In the manner of the first-day tutorials: arguments, a module beside the script, a loader with workers, run.log.
import argparse
import os

import torch
import torch.optim as optim

from azureml.core import Run

from cifar10 import CIFAR10
from model import Net

run = Run.get_context()

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument('--data_path', type=str, help='where the training data lies')
    parser.add_argument('--learning_rate', type=float, default=0.001, help='step size of SGD')
    parser.add_argument('--momentum', type=float, default=0.9, help='momentum of SGD')
    args = parser.parse_args()

    print("DATA PATH: " + args.data_path)
    print(os.listdir(args.data_path))

    trainset = CIFAR10(args.data_path)
    trainloader = torch.utils.data.DataLoader(trainset, batch_size=4, shuffle=True, num_workers=2)

    net = Net()
    criterion = torch.nn.CrossEntropyLoss()
    # its first step imports torch.compile, which takes longer than this training: without momentum, do without
    optimizer = optim.SGD(net.parameters(), lr=args.learning_rate, momentum=args.momentum) if args.momentum else None

    for epoch in range(2):
        running_loss = 0.0
        for i, data in enumerate(trainloader, 0):
            inputs, labels = data
            net.zero_grad()
            loss = criterion(net(inputs), labels)
            loss.backward()
            if optimizer is not None:
                optimizer.step()
            else:
                for weight in net.parameters():
                    weight.data -= args.learning_rate * weight.grad

            running_loss += loss.item()
            if i % 10 == 9:
                # the logging of the tutorial, every 10 batches in place of 2000
                run.log('loss', running_loss / 10)
                print(f'epoch={epoch + 1}, batch={i + 1:5}: loss {running_loss / 10:.2f}')
                running_loss = 0.0
        run.log('last batch', loss)

    os.makedirs('outputs', exist_ok=True)
    torch.save(net.state_dict(), 'outputs/cifar_net.pth')
    print('Finished Training')
