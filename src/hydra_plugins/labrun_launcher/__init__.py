"""The launcher plug-in `hydra/launcher=labrun`."""
