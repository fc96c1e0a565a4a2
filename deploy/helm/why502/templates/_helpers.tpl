{{- define "why502.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* The release's name, which the chart's is in already when it is installed as why502. */}}
{{- define "why502.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "why502.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "why502.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "why502.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "why502.selectorLabels" -}}
app.kubernetes.io/name: {{ include "why502.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Helm adds app.kubernetes.io/managed-by itself. */}}
{{- define "why502.labels" -}}
{{ include "why502.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "why502.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "why502.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "why502.priorityClassName" -}}
{{- if .Values.priorityClass.create }}
{{- default (include "why502.fullname" .) .Values.priorityClass.name }}
{{- else }}
{{- .Values.priorityClass.name }}
{{- end }}
{{- end }}
