# ruff: noqa
# fmt: off
# Upload, a registered data set, a control script with a mounted data set that waits, looks back and registers.
import os
from azureml.core import Workspace, Datastore, Dataset, Experiment, ScriptRunConfig, Environment, Model
from azureml.core.compute import AmlCompute, ComputeTarget
from azureml.core.compute_target import ComputeTargetException
from azureml.core.runconfig import RunConfiguration
from azureml.core.conda_dependencies import CondaDependencies
from azureml.exceptions import UserErrorException

ws = Workspace.from_config()
print(ws.name, ws.resource_group, ws.location, ws.subscription_id, sep='\n')
ds = ws.get_default_datastore()
print(ds.datastore_type, ds.name)
ds.upload_files(files=['data/cifar-10-batches-py/data_batch_1', 'data/cifar-10-batches-py/data_batch_2'],
                relative_root='data', target_path='cifar', overwrite=True, show_progress=True)
images = Dataset.File.from_files(path=[(ds, 'cifar/**')])
images = images.register(workspace=ws, name='cifar images', description='few images', create_new_version=True)
print(images.name, images.version, len(images.to_path()))

try:
    target = ComputeTarget(workspace=ws, name='gpucluster')
except ComputeTargetException:
    target = ComputeTarget.create(ws, 'gpucluster', AmlCompute.provisioning_configuration(
        vm_size='STANDARD_NC6', vm_priority='lowpriority', min_nodes=0, max_nodes=2))
    target.wait_for_completion(show_output=True, min_node_count=None, timeout_in_minutes=20)

rc = RunConfiguration()
rc.target = target
rc.environment = Environment('cifar-env')
rc.environment.python.conda_dependencies = CondaDependencies.create(
    conda_packages=['numpy'], pip_packages=['azureml-defaults', 'torch', 'torchvision'])
rc.environment.docker.enabled = True

data = Dataset.get_by_name(ws, name='cifar images')
config = ScriptRunConfig(source_directory='src', script='train.py', run_config=rc,
                         arguments=['--data_path', data.as_named_input('cifar').as_mount(), '--learning_rate', 0.01,
                                    '--momentum', 0])
exp = Experiment(workspace=ws, name='cifar10')
run = exp.submit(config, tags={'kind': 'tutorial'})
print(run.id, run.get_status())
run.wait_for_completion(show_output=True)
losses = run.get_metrics()['loss']
print(len(losses), run.get_metrics('last batch'))
details = run.get_details()
print(details['runDefinition']['script'], details['status'], [one['consumptionDetails'] for one in details['inputDatasets']] and 'inputs')
print(run.get_file_names())
os.makedirs('model', exist_ok=True)
run.download_files(prefix='outputs', output_directory='model')
model = run.register_model(model_name='cifar10', model_path='outputs/cifar_net.pth',
                           tags={'framework': 'pytorch'}, properties={'batch': 4}, datasets=[('training', data)])
print(model.name, model.version, model.tags, sep='\t')
print(Model(ws, 'cifar10').version, [one.name for one in Model.list(ws)])
