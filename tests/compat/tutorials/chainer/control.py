# ruff: noqa
# fmt: off
import os
import shutil
from azureml.core.workspace import Workspace
from azureml.core import Experiment
from azureml.core.compute import ComputeTarget, AmlCompute
from azureml.core.compute_target import ComputeTargetException
from azureml.train.dnn import Chainer
from azureml.widgets import RunDetails

ws = Workspace.from_config()
cluster_name = "gpu-cluster"
try:
    compute_target = ComputeTarget(workspace=ws, name=cluster_name)
    print('Found existing compute target.')
except ComputeTargetException:
    print('Creating a new compute target...')
    compute_config = AmlCompute.provisioning_configuration(vm_size='STANDARD_NC6', max_nodes=4)
    compute_target = ComputeTarget.create(ws, cluster_name, compute_config)
    compute_target.wait_for_completion(show_output=True)

project_folder = './chainer-mnist'
os.makedirs(project_folder, exist_ok=True)
shutil.copy('chainer_mnist.py', project_folder)

experiment = Experiment(ws, name='chainer-mnist')
script_params = {'--epochs': 3, '--batchsize': 64, '--output_dir': './outputs'}
estimator = Chainer(source_directory=project_folder, script_params=script_params, compute_target=compute_target,
                    pip_packages=['numpy', 'pytest'], entry_script='chainer_mnist.py', use_gpu=True)
run = experiment.submit(estimator)
print(run)
print(run.get_details()['runId'])
RunDetails(run).show()
run.wait_for_completion(show_output=True)
print(run.get_metrics())
