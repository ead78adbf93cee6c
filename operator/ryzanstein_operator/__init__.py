"""The control plane: custom resources into Deployments, Services, NetworkPolicies and a true status."""
