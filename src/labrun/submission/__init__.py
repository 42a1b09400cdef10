"""From a composed config to frozen runs: what a run needs is captured here, before anything starts."""
