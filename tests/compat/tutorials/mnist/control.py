# ruff: noqa
# fmt: off
# In the manner of 2018: a data reference, an estimator, a widget, HyperDrive, registration.
from azureml.core import Workspace, Experiment
from azureml.core.compute import ComputeTarget, BatchAiCompute
from azureml.core.compute_target import ComputeTargetException
from azureml.train.estimator import Estimator
from azureml.train.widgets import RunDetails
from azureml.train.hyperdrive import *

ws = Workspace.from_config()
exp = Experiment(workspace=ws, name='sklearn-mnist')

batchai_cluster_name = "traincluster"
try:
    compute_target = ComputeTarget(workspace=ws, name=batchai_cluster_name)
    if type(compute_target) is BatchAiCompute:
        print('found compute target {}, just use it.'.format(batchai_cluster_name))
    else:
        print('{} exists but it is not a Batch AI cluster.'.format(batchai_cluster_name))
except ComputeTargetException:
    compute_config = BatchAiCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", autoscale_enabled=True,
                                                               cluster_min_nodes=0, cluster_max_nodes=4)
    compute_target = ComputeTarget.create(ws, batchai_cluster_name, compute_config)
    compute_target.wait_for_completion(show_output=True, min_node_count=None, timeout_in_minutes=20)
    print(compute_target.status.serialize())

ds = ws.get_default_datastore()
print(ds.datastore_type, ds.account_name, ds.container_name)
ds.upload(src_dir='./data', target_path='mnist', overwrite=True, show_progress=True)

script_params = {
    '--data-folder': ds.as_mount(),
    '--regularization': 0.8
}
est = Estimator(source_directory='src', script_params=script_params, compute_target=compute_target,
                entry_script='train.py', conda_packages=['scikit-learn'])
run = exp.submit(config=est)
RunDetails(run).show()
run.wait_for_completion(show_output=True)
print(run.get_metrics())
print(run.get_file_names())

ps = RandomParameterSampling({'--regularization': choice(0.1, 0.5)})
est = Estimator(source_directory='src', script_params={'--data-folder': ds.as_mount()},
                compute_target=compute_target, entry_script='train.py', conda_packages=['scikit-learn'])
htc = HyperDriveConfig(estimator=est, hyperparameter_sampling=ps,
                       policy=BanditPolicy(evaluation_interval=2, slack_factor=0.1),
                       primary_metric_name='accuracy', primary_metric_goal=PrimaryMetricGoal.MAXIMIZE,
                       max_total_runs=4, max_concurrent_runs=2)
htr = exp.submit(config=htc)
htr.wait_for_completion(show_output=True)
best_run = htr.get_best_run_by_primary_metric()
print(len(list(htr.get_children())), 'runs')
print(best_run.get_details()['runDefinition']['arguments'])
print(best_run.get_metrics()['accuracy'])

model = best_run.register_model(model_name='sklearn_mnist', model_path='outputs/sklearn_mnist_model.pkl')
print(model.name, model.id, model.version, sep='\t')
