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
app.kubernetes.io/name: {{ include "rollcall.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Of everything that one component has: a dict of root and component. */}}
{{- define "rollcall.selector" -}}
{{ include "rollcall.instanceSelector" .root }}
app.kubernetes.io/component: {{ .component | quote }}
{{- end }}

{{/* Of an object: a dict of root, component and, where it has labels of its own, more. Ours win, then more. */}}
{{- define "rollcall.labels" -}}
{{- $own := include "rollcall.selector" . | fromYaml }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") }}
{{- $_ := set $own "app.kubernetes.io/part-of" "rollcall" }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service }}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion }}
{{- merge $own (.more | default dict) .root.Values.commonLabels | toYaml }}
{{- end }}

{{/* Of a worker's pod, the same: nothing that a new chart version would change, so that it restarts nobody. */}}
{{- define "rollcall.podLabels" -}}
{{- $own := include "rollcall.selector" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/part-of" "rollcall" }}
{{- $_ := set $own "rollcall/worker" "true" }}
{{- merge $own (.more | default dict) .root.Values.commonLabels | toYaml }}
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

{{/* What the names of the duplicate search end with; worker/topics.py says so, and `rollcall rebuild` the number. */}}
{{- define "rollcall.generation" -}}
{{- $generation := dig "handlers" "dedupe_generation" 1 .Values.config | int }}
{{- eq $generation 1 | ternary "" (printf ".%d" $generation) }}
{{- end }}

{{/* The consumer group of a stage. A dict of root and stage. */}}
{{- define "rollcall.group" -}}
{{- $rebuilt := has .stage (list "keys" "pairs" "clusters") }}
{{- printf "%s.%s%s" .root.Values.config.prefix .stage ($rebuilt | ternary (include "rollcall.generation" .root) "") }}
{{- end }}

{{/* The primary input of a stage. A dict of root and stage. */}}
{{- define "rollcall.input" -}}
{{- $latest := printf "%s.latest" .root.Values.config.prefix }}
{{- $internal := include "rollcall.internal" .root }}
{{- $generation := include "rollcall.generation" .root }}
{{- $inputs := dict "keys" $latest "requests" $latest "executor" (printf "%s.requests" $internal) }}
{{- $_ := set $inputs "pairs" (printf "%s.keys%s" $internal $generation) }}
{{- $_ := set $inputs "clusters" (printf "%s.links%s" $internal $generation) }}
{{- get $inputs .stage | default (printf "%s.events" .root.Values.config.prefix) }}
{{- end }}

{{/* rollcall.yaml, as every worker reads it. */}}
{{- define "rollcall.config" -}}
{{- $own := dict "listen" (printf "0.0.0.0:%d" (int .Values.port)) "state_dir" "/state" "grace" (int .Values.drainSeconds) }}
{{- mustMergeOverwrite (deepCopy .Values.config) $own | toYaml }}
{{- end }}

{{/* The addresses of a bootstrap list, as a JSON list of host:port: Kafka's port where none is given, nothing for nothing. */}}
{{- define "rollcall.brokers" -}}
{{- $found := list }}
{{- range splitList "," . }}
{{- with trim . }}
{{- $found = append $found (regexMatch "^([^:]*|.*\\]):[0-9]+$" . | ternary . (printf "%s:9092" (trimSuffix ":" .))) }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/* The brokers as the topics job reaches them, as JSON: a null takes a setting of the workers away. */}}
{{- define "rollcall.topicsKafka" -}}
{{- $kafka := mustMergeOverwrite (deepCopy .Values.config.kafka) (deepCopy .Values.topics.kafka) }}
{{- range $name, $value := .Values.topics.kafka }}
{{- if kindIs "invalid" $value }}
{{- $_ := unset $kafka $name }}
{{- end }}
{{- end }}
{{- toJson $kafka }}
{{- end }}

{{/* rollcall.yaml of the topics job: what topics depend on, with its own credential. */}}
{{- define "rollcall.topicsConfig" -}}
{{- $kafka := include "rollcall.topicsKafka" . | fromJson }}
{{- $config := merge (dict "kafka" $kafka) (pick .Values.config "prefix" "receipts_retention" "log") }}
{{- $handlers := pick (.Values.config.handlers | default dict) "dedupe_generation" }}
{{- range $name, $plugin := include "rollcall.plugins" . | fromJson }}
{{- $_ := set $handlers "plugins" (set ($handlers.plugins | default dict) $name (omit $plugin "settings")) }}
{{- end }}
{{- with $handlers }}
{{- $_ := set $config "handlers" . }}
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
