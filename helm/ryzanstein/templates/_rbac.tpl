{{/* What the operator may do where InferenceServices live; the operator's own list of it (cluster/resources.py) is
     compared by a test. Reading Secrets, pods/exec, roles and wildcards are not in it. */}}
{{- define "ryzanstein.operatorRules" -}}
- apiGroups: [ryzanstein.dev]
  resources: [inferenceservices]
  verbs: [get, list, watch]
- apiGroups: [ryzanstein.dev]
  resources: [inferenceservices/status]
  verbs: [patch]
# An owner reference that blocks the owner's deletion asks for this where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [ryzanstein.dev]
  resources: [inferenceservices/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# The key that the pods of a group share is made here, and never read.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* What the operator may do with nodes, which have no namespace: read them, and taint them where values allow it. */}}
{{- define "ryzanstein.nodeRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch{{ if .Values.nodeHealth.taint }}, patch{{ end }}]
{{- end }}

{{/* What the gateway may do where workers live. */}}
{{- define "ryzanstein.gatewayRules" -}}
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
{{- end }}
