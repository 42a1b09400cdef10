"""The sweeper plug-in `hydra/sweeper=labrun`."""
