{{/* What the operator may do where InferenceServices live. Secrets, pods/exec, roles and wildcards are not in it;
     there is no "delete": owner references remove what a deleted service leaves. */}}
{{- define "ryzanstein.operatorRules" -}}
- apiGroups: [ryzanstein.dev]
  resources: [inferenceservices]
  verbs: [get, list, watch]
- apiGroups: [ryzanstein.dev]
  resources: [inferenceservices/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/* What the gateway may do where workers live. */}}
{{- define "ryzanstein.gatewayRules" -}}
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
{{- end }}
