{{/* What the schema can't say. All of it is looked at before the first object is rendered. */}}
{{- define "rollcall.validate" -}}
{{- $problems := list }}
{{- $kafka := .Values.config.kafka }}
{{- $stages := (include "rollcall.stages" . | fromJson).stages }}
{{- if not $stages }}
{{- $problems = append $problems "workloads: all of them are off; switch at least one on" }}
{{- end }}
{{- $known := include "rollcall.plugins" . | fromJson }}
{{- range $name, $_ := .Values.plugins }}
{{- if not (hasKey $known $name) }}
{{- $problems = append $problems (printf "plugins.%s: there is no such plug-in in config.handlers.plugins" $name) }}
{{- end }}
{{- end }}
{{- $listed := .Values.secrets }}
{{- range $stage := $stages }}
{{- $w := include "rollcall.workload" (dict "root" $ "stage" $stage) | fromJson }}
{{- $at := printf "%s.%s" (hasKey $known $stage | ternary "plugins" "workloads") $stage }}
{{- $listed = concat $listed $w.secrets }}
{{- $own := dict "env" list "volumeMounts" (list "/etc/rollcall" "/state" "/tmp") "containers" (list "rollcall") }}
{{- $_ := set $own "volumes" (list "config" "state" "tmp") }}
{{- range $w.secrets }}
{{- $_ := set $own "volumes" (append $own.volumes (include "rollcall.secretVolume" .)) }}
{{- end }}
{{- range $what, $key := dict "env" "name" "volumes" "name" "volumeMounts" "mountPath" }}
{{- $problems = concat $problems (include "rollcall.twice" (dict "at" $at "what" $what "key" $key "own" (index $own $what) "items" (index $w $what)) | fromJsonArray) }}
{{- end }}
{{- $problems = concat $problems (include "rollcall.twice" (dict "at" $at "what" "containers" "key" "name" "own" $own.containers "items" (concat $w.containers $w.initContainers | default list)) | fromJsonArray) }}
{{- $a := $w.autoscaling }}
{{- if ne $a.type "none" }}
{{- $max := include "rollcall.maxReplicas" (dict "root" $ "autoscaling" $a) | int }}
{{- if gt (int $a.minReplicas) $max }}
{{- $problems = append $problems (printf "%s.autoscaling.minReplicas: %d is more than the most pods, %d (maxReplicas, and at most config.kafka.partitions)" $at (int $a.minReplicas) $max) }}
{{- end }}
{{- end }}
{{- $auth := $.Values.keda.authentication }}
{{- if and (eq $a.type "keda") (hasPrefix "SASL" $kafka.security_protocol) (not (or $auth.existing $auth.secretName)) }}
{{- $problems = append $problems (printf "keda.authentication: KEDA can't log on to %s brokers to see the lag of %s; name an existing Secret in keda.authentication.secretName, or a TriggerAuthentication in keda.authentication.existing" $kafka.security_protocol $stage) }}
{{- end }}
{{- end }}
{{- range regexFindAll "/secrets/[^/\"]+/" (toJson .Values.config) -1 | uniq }}
{{- $name := trimPrefix "/secrets/" . | trimSuffix "/" }}
{{- if not (has $name $listed) }}
{{- $problems = append $problems (printf "config: a file below %s is named, but the Secret %q is in no list of `secrets` and would not be mounted" . $name) }}
{{- end }}
{{- end }}
{{- if and .Values.topics.enabled (dig "password" "file" "" .Values.topics.kafka) }}
{{- $file := .Values.topics.kafka.password.file }}
{{- $mounted := .Values.topics.secrets | default .Values.secrets }}
{{- if and (hasPrefix "/secrets/" $file) (not (has (index (splitList "/" $file) 2) $mounted)) }}
{{- $problems = append $problems (printf "topics.kafka.password.file: %s is in no Secret of topics.secrets" $file) }}
{{- end }}
{{- end }}
{{- if $problems }}
{{- fail (printf "the values can't be used:\n  - %s" ($problems | uniq | join "\n  - ")) }}
{{- end }}
{{- end }}

{{/* Names that are there twice, as a JSON list of sentences. */}}
{{- define "rollcall.twice" -}}
{{- $seen := dict }}
{{- $problems := list }}
{{- range .own }}
{{- $_ := set $seen . true }}
{{- end }}
{{- range .items }}
{{- $name := index . $.key | toString }}
{{- if hasKey $seen $name }}
{{- $problems = append $problems (printf "%s.%s: %q is there twice (or is the chart's own)" $.at $.what $name) }}
{{- end }}
{{- $_ := set $seen $name true }}
{{- end }}
{{- toJson $problems }}
{{- end }}
