{{- define "rollcall.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* 52 characters at most, so that the longest suffix still fits into the 63 of a label. */}}
{{- define "rollcall.fullname" -}}
{{- $name := include "rollcall.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Of a stage's objects; a plug-in's name may be long, and have underscores. A dict of root and stage. */}}
{{- define "rollcall.workloadName" -}}
{{- printf "%s-%s" (include "rollcall.fullname" .root) (replace "_" "-" .stage) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "rollcall.instanceSelector" -}}
app.kubernetes.io/name: {{ include "rollcall.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* Of everything that one component has: a dict of root and component. */}}
{{- define "rollcall.selector" -}}
{{ include "rollcall.instanceSelector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "rollcall.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{ include "rollcall.selector" . }}
app.kubernetes.io/part-of: rollcall
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Of a worker's pod: nothing that a new chart version would change, so that it restarts nobody. */}}
{{- define "rollcall.podLabels" -}}
{{ include "rollcall.selector" . }}
app.kubernetes.io/part-of: rollcall
rollcall/worker: "true"
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "rollcall.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "rollcall.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "rollcall.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end }}

{{/* The plug-in handlers of the configuration, as JSON. */}}
{{- define "rollcall.plugins" -}}
{{- dig "handlers" "plugins" dict .Values.config | default dict | toJson }}
{{- end }}

{{/* The enabled stages, plug-in handlers at the end, as JSON {"stages": [...]}. */}}
{{- define "rollcall.stages" -}}
{{- $found := list }}
{{- $plugins := include "rollcall.plugins" . | fromJson | keys | sortAlpha }}
{{- range $stage := concat (list "poll" "keys" "pairs" "clusters" "requests" "executor") $plugins }}
{{- if (include "rollcall.workload" (dict "root" $ "stage" $stage) | fromJson).enabled }}
{{- $found = append $found $stage }}
{{- end }}
{{- end }}
{{- dict "stages" $found | toJson }}
{{- end }}

{{/* What a stage is made of, as JSON: `worker` and `autoscaling`, with the workload's own section over them. */}}
{{- define "rollcall.workload" -}}
{{- $common := merge (dict "autoscaling" .root.Values.autoscaling) .root.Values.worker | deepCopy }}
{{- $own := index .root.Values.workloads .stage | default (index .root.Values.plugins .stage) | default dict | deepCopy }}
{{- range $key := list "egress" "env" "volumes" "volumeMounts" "initContainers" "containers" "secrets" }}
{{- $_ := set $own $key (concat (index $common $key | default list) (index $own $key | default list) | default list) }}
{{- end }}
{{- $all := mustMergeOverwrite $common $own }}
{{- if eq .stage "poll" }}
{{- $_ := set $all "autoscaling" (dict "type" "none") }}
{{- end }}
{{- $_ := set $all "secrets" (concat .root.Values.secrets $all.secrets | uniq) }}
{{- toJson $all }}
{{- end }}

{{/* Most pods of a stage: what was asked for, at most the partition count. A dict of root and autoscaling. */}}
{{- define "rollcall.maxReplicas" -}}
{{- $partitions := int .root.Values.config.kafka.partitions }}
{{- min $partitions (int (.autoscaling.maxReplicas | default $partitions)) }}
{{- end }}

{{/* What internal topics start with; worker/topics.py is what says so. */}}
{{- define "rollcall.internal" -}}
{{- eq .Values.config.prefix "customers" | ternary "rollcall" (printf "rollcall.%s" .Values.config.prefix) }}
{{- end }}

{{/* The primary input of a stage; its consumer group is `<prefix>.<stage>`. A dict of root and stage. */}}
{{- define "rollcall.input" -}}
{{- $latest := printf "%s.latest" .root.Values.config.prefix }}
{{- $internal := include "rollcall.internal" .root }}
{{- $inputs := dict "keys" $latest "requests" $latest "pairs" (printf "%s.keys" $internal) }}
{{- $inputs = merge $inputs (dict "clusters" (printf "%s.links" $internal) "executor" (printf "%s.requests" $internal)) }}
{{- get $inputs .stage | default (printf "%s.events" .root.Values.config.prefix) }}
{{- end }}

{{/* rollcall.yaml, as every worker reads it. */}}
{{- define "rollcall.config" -}}
{{- $own := dict "listen" (printf "0.0.0.0:%d" (int .Values.port)) "state_dir" "/state" "grace" (int .Values.drainSeconds) }}
{{- mustMergeOverwrite (deepCopy .Values.config) $own | toYaml }}
{{- end }}

{{/* rollcall.yaml of the topics job: what topics depend on, with its own credential. */}}
{{- define "rollcall.topicsConfig" -}}
{{- $kafka := mustMergeOverwrite (deepCopy .Values.config.kafka) (deepCopy .Values.topics.kafka) }}
{{- $config := merge (dict "kafka" $kafka) (pick .Values.config "prefix" "receipts_retention" "log") }}
{{- with include "rollcall.plugins" . | fromJson }}
{{- $_ := set $config "handlers" (dict "plugins" .) }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* A volume's name has no dots and 63 characters at most, a Secret's may have. */}}
{{- define "rollcall.secretVolume" -}}
secret-{{ replace "." "-" . | trunc 56 | trimSuffix "-" }}
{{- end }}

{{- define "rollcall.secretVolumes" -}}
{{- range . }}
- name: {{ include "rollcall.secretVolume" . }}
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{- define "rollcall.secretMounts" -}}
{{- range . }}
- name: {{ include "rollcall.secretVolume" . }}
  mountPath: /secrets/{{ . }}
  readOnly: true
{{- end }}
{{- end }}

{{/* What every pod of ours has. */}}
{{- define "rollcall.podCommon" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- end }}

{{/* What every container of ours has. */}}
{{- define "rollcall.containerCommon" -}}
image: {{ include "rollcall.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- end }}
