"""Launcher plug-in `hydra/launcher=labrun`."""
