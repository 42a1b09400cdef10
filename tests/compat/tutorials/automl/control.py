# ruff: noqa
# fmt: off
# AutoML on a "DSVM" with get_data.py, in the manner of 2018.
import json
import logging
import os
import sys
import numpy as np
from sklearn import datasets
import azureml.core
from azureml.core.experiment import Experiment
from azureml.core.workspace import Workspace
from azureml.core.compute import DsvmCompute
from azureml.core.conda_dependencies import CondaDependencies
from azureml.train.automl import AutoMLConfig
from azureml.train.automl.run import AutoMLRun
from azureml.widgets import RunDetails

ws = Workspace.from_config()
experiment_name = 'automl-remote-dsvm'
project_folder = './project'
experiment = Experiment(ws, experiment_name)
output = {}
output['SDK version'] = azureml.core.VERSION
output['Subscription ID'] = ws.subscription_id
output['Workspace'] = ws.name
output['Resource Group'] = ws.resource_group
output['Location'] = ws.location
print(output)

dsvm_name = 'mydsvm'
try:
    dsvm_compute = DsvmCompute(ws, dsvm_name)
    print('found existing dsvm.')
except:
    print('creating new dsvm.')
    dsvm_config = DsvmCompute.provisioning_configuration(vm_size="Standard_D2_v2")
    dsvm_compute = DsvmCompute.create(ws, name=dsvm_name, provisioning_configuration=dsvm_config)
    dsvm_compute.wait_for_completion(show_output=True)

automl_settings = {
    "max_time_sec": 600,
    "iterations": 2,
    "n_cross_validations": 2,
    "primary_metric": 'AUC_weighted',
    "preprocess": False,
    "max_concurrent_iterations": 2,
    "whitelist_models": ["LogisticRegression", "KNN"],
    "verbosity": logging.INFO
}
automl_config = AutoMLConfig(task='classification', debug_log='automl_errors.log', path=project_folder,
                             compute_target=dsvm_compute, data_script=project_folder + "/get_data.py",
                             **automl_settings)
remote_run = experiment.submit(automl_config, show_output=True)
print(remote_run.id)
RunDetails(remote_run).show()
remote_run.wait_for_completion(show_output=True)

children = list(remote_run.get_children())
metricslist = {}
for run in children:
    properties = run.get_properties()
    metrics = {k: v for k, v in run.get_metrics().items() if isinstance(v, float)}
    metricslist[int(properties['iteration'])] = metrics
import pandas as pd
print('ITERATIONS', list(pd.DataFrame(metricslist).sort_index(axis=1)))

from azureml.train.automl import utilities as automl_utils
print(automl_utils.get_primary_metrics('classification'))
best_run, fitted_model = remote_run.get_output()
print(best_run)
print('REGISTERED', best_run.register_model(model_path='outputs/model.pkl', model_name='digits').id)
print('FILES', [name for name in best_run.get_file_names() if name.startswith('outputs/')])
best_run.download_files(prefix='outputs/', output_directory='inference', append_prefix=False)
from azureml.automl.core.shared import constants
best_run.download_file(constants.CONDA_ENV_FILE_PATH, 'inference/env.yml')
print('PACKAGES', [name.split('=')[0] for name in CondaDependencies('inference/env.yml').pip_packages])
sys.path.append('inference')
os.environ['AZUREML_MODEL_DIR'] = 'inference'
import scoring_file_v_1_0_0 as scoring
scoring.init()
print('SCORED', scoring.run(json.dumps({'data': datasets.load_digits().data[:1].tolist()})))
lookup_metric = "accuracy"
best_run, fitted_model = remote_run.get_output(metric=lookup_metric)
third_run, third_model = remote_run.get_output(iteration=1)
model = remote_run.register_model(description='AutoML Model', tags=None)
print(remote_run.model_id)

digits = datasets.load_digits()
X_test, y_test = digits.data[:10, :], digits.target[:10]
predicted = fitted_model.predict(X_test)
transformer = fitted_model.named_steps['datatransformer']
print('STEPS', [name for name, _ in fitted_model.steps][0], len(transformer.get_engineered_feature_names()))
print('OF', remote_run.get_details()['target'], remote_run.id.split('_')[0], best_run.id.count('_'))
print('PREDICTED', (predicted == y_test).mean())
