"""Looking into a network: the health of its units, its gradients, and small networks number by number."""
