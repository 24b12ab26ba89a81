{{/* Name of everything the chart makes. */}}
{{- define "tidegate.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "tidegate.operator" -}}
{{- printf "%s-operator" (include "tidegate.fullname" .) -}}
{{- end -}}

{{/* Service of the operator's HTTPS, the Secret with its certificate, and the configuration of the admission webhook. */}}
{{- define "tidegate.webhook" -}}
{{- printf "%s-webhook" (include "tidegate.fullname" .) -}}
{{- end -}}

{{- define "tidegate.serviceAccount" -}}
{{- default (include "tidegate.operator" .) .Values.serviceAccount.name -}}
{{- end -}}

{{/* Which pods are the operator's: part of an immutable selector. */}}
{{- define "tidegate.selector" -}}
app.kubernetes.io/name: tidegate
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "tidegate.labels" -}}
{{ include "tidegate.selector" . }}
app.kubernetes.io/part-of: tidegate
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with omit .Values.commonLabels "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/part-of" "app.kubernetes.io/managed-by" "app.kubernetes.io/version" "helm.sh/chart" }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Annotations of an object: commonAnnotations, and those that it is called with, (list $ .Values.x.annotations), which win. */}}
{{- define "tidegate.annotations" -}}
{{- with merge (dict) (default dict (index . 1)) (default dict (index . 0).Values.commonAnnotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* One image. Call it with (list $ "sidecar"). */}}
{{- define "tidegate.image" -}}
{{- $root := index . 0 -}}
{{- $image := index $root.Values.images (index . 1) -}}
{{- $ours := ternary "" $root.Values.images.registry (eq (index . 1) "broker") -}}
{{- $registry := default $ours $image.registry -}}
{{- $tag := coalesce $image.tag $root.Values.images.tag $root.Chart.AppVersion -}}
{{- with $registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $tag }}{{ end -}}
{{- end -}}
