"""Where runs go. `base.py` states the contract; `registry.py` names the backends."""
