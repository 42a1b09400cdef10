# ruff: noqa
# fmt: off
import os
import pickle

import torch


class CIFAR10(torch.utils.data.Dataset):
    """Reads the batches as torchvision does, of any number of images (torchvision takes only the whole set)."""

    def __init__(self, root):
        self.images, self.labels = [], []
        folder = os.path.join(root, "cifar-10-batches-py")
        for name in sorted(os.listdir(folder)):
            if name.startswith("data_batch"):
                with open(os.path.join(folder, name), "rb") as f:
                    entry = pickle.load(f, encoding="latin1")
                self.images.extend(entry["data"])
                self.labels.extend(entry["labels"])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = torch.from_numpy(self.images[index]).view(3, 32, 32)
        return (image.float() / 255 - 0.5) / 0.5, self.labels[index]
