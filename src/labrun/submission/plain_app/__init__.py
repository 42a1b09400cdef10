"""Jobs of a plain Hydra application, which does not use labrun: any function under `@hydra.main`."""
