# ruff: noqa
# fmt: off
from azureml.core import Workspace

ws = Workspace.create(name='day-one', # provide a name for your workspace
                      subscription_id='<azure-subscription-id>', # provide your subscription ID
                      resource_group='<resource-group>', # provide a resource group name
                      create_resource_group=True,
                      location='westeurope') # e.g. 'westeurope' or 'eastus2'

# write out the workspace details to a configuration file: .azureml/config.json
ws.write_config(path='.azureml')
