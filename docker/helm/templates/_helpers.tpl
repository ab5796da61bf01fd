{{/* The name of all objects: the release, with the chart's name unless it contains it. */}}
{{- define "users-sync.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "users-sync" .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-users-sync" (.Release.Name | trunc 39 | trimSuffix "-") -}}
{{- end -}}
{{- end }}

{{/* Labels by which objects select the pods: they never change. */}}
{{- define "users-sync.selector" -}}
app.kubernetes.io/name: users-sync
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "users-sync.labels" -}}
{{ include "users-sync.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "users-sync.configMap" -}}
{{ .Values.existingConfigMap | default (include "users-sync.name" .) }}
{{- end }}

{{- define "users-sync.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "users-sync.name" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end }}

{{- define "users-sync.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* The Secret with the token of the admin port, for Prometheus. */}}
{{- define "users-sync.tokenSecret" -}}
{{- $token := .Values.serviceMonitor.tokenSecret -}}
{{- if $token.name -}}
{{ $token.name }}
{{- else if hasKey .Values.secrets $token.key -}}
{{ include "users-sync.name" . }}
{{- else if .Values.existingSecrets -}}
{{ first .Values.existingSecrets }}
{{- else -}}
{{- fail (printf "serviceMonitor needs the Secret with the token: set serviceMonitor.tokenSecret.name, existingSecrets or secrets.%s" $token.key) -}}
{{- end -}}
{{- end }}

{{/* A size of users-sync (4GB) or of Kubernetes (9Gi) in bytes. */}}
{{- define "users-sync.bytes" -}}
{{- $text := toString . -}}
{{- $number := regexFind "^[0-9]+" $text | int64 -}}
{{- $powers := dict "" 0 "B" 0 "k" 1 "K" 1 "M" 2 "G" 3 "T" 4 -}}
{{- $unit := regexReplaceAll "^[0-9]+ *([A-Za-z]?).*$" $text "${1}" -}}
{{- range until (get $powers $unit | int) -}}
{{- $number = mul $number 1024 -}}
{{- end -}}
{{- $number -}}
{{- end }}
