"""Old addresses of the SDK's own parts."""
