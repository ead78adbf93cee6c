"""kopf's side: thin functions that wake the reconcile loop."""
