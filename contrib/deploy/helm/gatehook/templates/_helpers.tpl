{{- define "gatehook.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "gatehook.selector" -}}
app.kubernetes.io/name: gatehook
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gatehook.labels" -}}
{{ include "gatehook.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}
