{{/* Not empty where the release has a Prometheus of its own. */}}
{{- define "ryzanstein.prometheusInstalled" -}}
{{- if and .Values.prometheus.install (not .Values.prometheus.url) }}true{{ end }}
{{- end }}

{{/* Where the operator asks for metrics; empty where there is no Prometheus. */}}
{{- define "ryzanstein.prometheusUrl" -}}
{{- if .Values.prometheus.url -}}
{{ .Values.prometheus.url | trimSuffix "/" }}
{{- else if .Values.prometheus.install -}}
http://{{ .Release.Name }}-prometheus.{{ .Release.Namespace }}.svc:9090
{{- end -}}
{{- end }}

{{/* How many bytes a quantity of Kubernetes (2Gi, 3000M) or a size of Prometheus (1GB, by powers of two) is. */}}
{{- define "ryzanstein.bytes" -}}
{{- if kindIs "string" . -}}
{{- $units := dict "" 0 "k" 1 "M" 2 "G" 3 "T" 4 "Ki" 1 "Mi" 2 "Gi" 3 "Ti" 4 "MB" 2 "GB" 3 "TB" 4 }}
{{- $unit := regexFind "[A-Za-z]*$" . }}
{{- $bytes := trimSuffix $unit . | float64 }}
{{- range until (int (get $units $unit)) }}
{{- $bytes = mulf $bytes (ternary 1000.0 1024.0 (has $unit (list "k" "M" "G" "T"))) }}
{{- end -}}
{{ $bytes }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end }}

{{/* What Prometheus may do where pods of ours are: find them. */}}
{{- define "ryzanstein.prometheusRules" -}}
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
{{- end }}

{{/* Its configuration. The labels are the contract that queries, rules and dashboards are written against
     (ryzanstein_worker/contract.py); monitors.yaml gives the same ones. */}}
{{- define "ryzanstein.prometheusConfig" -}}
{{- $interval := printf "%ds" (int .Values.prometheus.scrapeIntervalSeconds) -}}
global:
  scrape_interval: {{ $interval }}
  scrape_timeout: {{ $interval }}
  evaluation_interval: {{ $interval }}
rule_files: [/etc/prometheus/rules-*.yaml]
scrape_configs:
  {{- range $component := list "operator" "gateway" }}
  - job_name: ryzanstein-{{ $component }}
    # What these say of a service carries that service's namespace.
    honor_labels: true
    kubernetes_sd_configs:
      - role: pod
        namespaces: {names: [{{ $.Release.Namespace }}]}
        selectors:
          - role: pod
            label: app.kubernetes.io/name=ryzanstein,app.kubernetes.io/instance={{ $.Release.Name }},app.kubernetes.io/component={{ $component }}
    relabel_configs:
      {{- include "ryzanstein.prometheusRelabelling" $ | nindent 6 }}
  {{- end }}
  - job_name: ryzanstein-worker
    # A worker's image may be a user's own: it cannot speak for another pod, nor fill the memory.
    honor_labels: false
    sample_limit: 10000
    kubernetes_sd_configs:
      - role: pod
        {{- if not .Values.clusterWide }}
        namespaces: {names: {{ include "ryzanstein.watchNamespaces" . | fromYamlArray | toJson }}}
        {{- end }}
        selectors: [{role: pod, label: ryzanstein.dev/role=worker}]
    relabel_configs:
      {{- include "ryzanstein.prometheusRelabelling" . | nindent 6 }}
      - {source_labels: [__meta_kubernetes_pod_label_ryzanstein_dev_inference_service], target_label: inference_service}
  # How it fares itself. One target, so it has no need to be told from others.
  - job_name: prometheus
    static_configs:
      - {targets: ["127.0.0.1:9090"], labels: {namespace: {{ .Release.Namespace }}}}
{{- end }}

{{/* A file of rules, whose alerts point at their runbooks. Call with (dict "root" $ "content" text). */}}
{{- define "ryzanstein.ruleFile" -}}
{{- $base := .root.Values.monitoring.runbookBaseUrl | trimSuffix "/" -}}
{{- if $base -}}
{{ .content | replace "runbook_url: docs/" (printf "runbook_url: %s/docs/" $base) }}
{{- else -}}
{{ .content }}
{{- end -}}
{{- end }}

{{/* One target a pod, its health port, named by namespace and pod. */}}
{{- define "ryzanstein.prometheusRelabelling" -}}
- {action: keep, source_labels: [__meta_kubernetes_pod_container_port_name], regex: health}
- {action: drop, source_labels: [__meta_kubernetes_pod_phase], regex: Succeeded|Failed}
- {source_labels: [__meta_kubernetes_namespace], target_label: namespace}
- {source_labels: [__meta_kubernetes_pod_name], target_label: pod}
{{- end }}

{{/* Ingress to the health port for Prometheus: the release's own, and those in the namespaces that values name. */}}
{{- define "ryzanstein.ingressPrometheus" -}}
{{- $installed := include "ryzanstein.prometheusInstalled" . }}
{{- if or $installed .Values.networkPolicy.prometheusNamespaceLabels }}
- from:
    {{- if $installed }}
    - podSelector:
        matchLabels:
          {{- include "ryzanstein.selectorLabels" (dict "root" . "component" "prometheus") | nindent 10 }}
    {{- end }}
    {{- with .Values.networkPolicy.prometheusNamespaceLabels }}
    - namespaceSelector:
        matchLabels: {{ toJson . }}
    {{- end }}
  ports:
    - {protocol: TCP, port: 8001}
{{- end }}
{{- end }}

{{/* Egress to the Prometheus that the operator asks. */}}
{{- define "ryzanstein.egressPrometheus" -}}
{{- if include "ryzanstein.prometheusInstalled" . }}
- to:
    - podSelector:
        matchLabels:
          {{- include "ryzanstein.selectorLabels" (dict "root" . "component" "prometheus") | nindent 10 }}
  ports:
    - {protocol: TCP, port: 9090}
{{- else if .Values.prometheus.url }}
- ports:
    - {protocol: TCP, port: {{ include "ryzanstein.portOf" .Values.prometheus.url }}}
{{- end }}
{{- end }}

{{/* Not empty where monitors (or rules) are wanted. Call with (dict "root" $ "wanted" auto|true|false). */}}
{{- define "ryzanstein.monitoringWanted" -}}
{{- if kindIs "bool" .wanted }}{{ if .wanted }}true{{ end }}
{{- else if .root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}true{{ end }}
{{- end }}

{{/* The labels of prometheusRelabelling over those that the Prometheus Operator sets itself: our job's name, and nothing
     that a chart's own Prometheus does not give. Call with the component's name. */}}
{{- define "ryzanstein.monitorRelabelling" -}}
- {action: drop, sourceLabels: [__meta_kubernetes_pod_phase], regex: Succeeded|Failed}
- {sourceLabels: [__meta_kubernetes_namespace], targetLabel: namespace}
- {sourceLabels: [__meta_kubernetes_pod_name], targetLabel: pod}
- {targetLabel: job, replacement: ryzanstein-{{ . }}}
- {action: labeldrop, regex: container|endpoint|service}
{{- end }}
