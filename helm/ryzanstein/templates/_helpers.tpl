{{/* Labels that select a component's pods. Call with (dict "root" $ "component" "gateway"). */}}
{{- define "ryzanstein.selectorLabels" -}}
app.kubernetes.io/name: ryzanstein
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of every object. Call as above; without a component for what belongs to the whole release. */}}
{{- define "ryzanstein.labels" -}}
app.kubernetes.io/name: ryzanstein
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
app.kubernetes.io/part-of: ryzanstein
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Image reference. Call with (dict "root" $ "image" .Values.images.gateway). */}}
{{- define "ryzanstein.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The watched namespaces as a YAML list; empty for cluster-wide. */}}
{{- define "ryzanstein.watchNamespaces" -}}
{{- if .Values.clusterWide -}}
[]
{{- else -}}
{{ .Values.watchNamespaces | default (list .Release.Namespace) | toYaml }}
{{- end -}}
{{- end }}

{{/* The same as operator and gateway read it from the environment: a comma list, or * for all. */}}
{{- define "ryzanstein.watchNamespacesText" -}}
{{ if .Values.clusterWide }}*{{ else }}{{ include "ryzanstein.watchNamespaces" . | fromYamlArray | join "," }}{{ end }}
{{- end }}

{{/* The URL that users reach the gateway by, without /v1 and without a slash at the end. */}}
{{- define "ryzanstein.gatewayUrl" -}}
{{- if .Values.gateway.externalUrl -}}
{{ .Values.gateway.externalUrl | trimSuffix "/" }}
{{- else -}}
{{- $port := int .Values.gateway.service.port -}}
{{- $scheme := include "ryzanstein.gatewayScheme" . -}}
{{- $usual := ternary 443 80 (eq $scheme "https") -}}
{{ $scheme }}://{{ .Release.Name }}-gateway.{{ .Release.Namespace }}.svc{{ if ne $port $usual }}:{{ $port }}{{ end }}
{{- end -}}
{{- end }}

{{/* http, or https where the gateway itself speaks TLS. */}}
{{- define "ryzanstein.gatewayScheme" -}}
{{ ternary "https" "http" (ne .Values.gateway.tls.secretName "") }}
{{- end }}

{{/* Name of the Secret behind a key set. Call with (dict "root" $ "keySet" {name, secretName}). */}}
{{- define "ryzanstein.keySetSecret" -}}
{{ .keySet.secretName | default (printf "%s-keyset-%s" .root.Release.Name .keySet.name) }}
{{- end }}

{{/* Pod-level security of operator and gateway: Pod Security "restricted", and a UID above any host's. */}}
{{- define "ryzanstein.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ryzanstein.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* The API token: projected and short-lived, since the ServiceAccounts mount none by themselves. */}}
{{- define "ryzanstein.tokenVolume" -}}
name: api-token
projected:
  defaultMode: 0440
  sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3600}
    - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
    - downwardAPI: {items: [{path: namespace, fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}}]}
{{- end }}

{{- define "ryzanstein.tokenMount" -}}
{name: api-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end }}

{{/* Name of the Secret with which the gateway speaks to the operator, and where both find it. */}}
{{- define "ryzanstein.demandKeySecret" -}}
{{ .Release.Name }}-demand-key
{{- end }}

{{- define "ryzanstein.demandKeyVolume" -}}
name: demand-key
projected:
  defaultMode: 0440
  sources:
    - secret: {name: {{ include "ryzanstein.demandKeySecret" . }}, optional: true}
{{- end }}

{{- define "ryzanstein.demandKeyMount" -}}
{name: demand-key, mountPath: /etc/ryzanstein/demand, readOnly: true}
{{- end }}

{{/* Probes on the health port, which a thread of its own serves. */}}
{{- define "ryzanstein.probes" -}}
startupProbe:
  httpGet: {path: /health/live, port: health}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /health/live, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /health/ready, port: health}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* Where the pods of a component go: apart from one another, where there is room. */}}
{{- define "ryzanstein.spread" -}}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "ryzanstein.selectorLabels" . | nindent 14 }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "ryzanstein.selectorLabels" . | nindent 8 }}
{{- end }}

{{/* Egress to DNS. */}}
{{- define "ryzanstein.egressDNS" -}}
- to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}

{{/* The TCP port of a URL. */}}
{{- define "ryzanstein.portOf" -}}
{{- $url := urlParse . }}
{{- regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) | default (ternary "443" "80" (eq $url.scheme "https")) }}
{{- end }}

{{/* Egress to the collector of traces, if there is one. */}}
{{- define "ryzanstein.egressTraces" -}}
{{- with .Values.tracing.endpoint }}
- ports:
    - {protocol: TCP, port: {{ include "ryzanstein.portOf" . }}}
  {{- with $.Values.tracing.collectorNamespaceLabels }}
  to:
    - namespaceSelector: {matchLabels: {{ toJson . }}}
  {{- end }}
{{- end }}
{{- end }}

{{/* Egress to the API server. By port, since it is no pod: no selector names it in every cluster. */}}
{{- define "ryzanstein.egressAPIServer" -}}
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
  {{- with .Values.networkPolicy.apiServerCIDRs }}
  to:
    {{- range . }}
    - ipBlock: {cidr: {{ . }}}
    {{- end }}
  {{- end }}
{{- end }}
