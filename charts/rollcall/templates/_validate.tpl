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
{{- range $name, $_ := $known }}
{{- if has $name (list "topics" "test") }}
{{- $problems = append $problems (printf "config.handlers.plugins.%s: the chart has a %s pod of its own; give the plug-in another name" $name $name) }}
{{- end }}
{{- if not (regexMatch "[a-z0-9]$" $name) }}
{{- $problems = append $problems (printf "config.handlers.plugins.%s: names in Kubernetes end with a letter or a digit; give the plug-in another one" $name) }}
{{- end }}
{{- end }}
{{- if not (include "rollcall.brokers" $kafka.bootstrap | fromJsonArray) }}
{{- $problems = append $problems "config.kafka.bootstrap: it names no broker" }}
{{- end }}
{{- $named := dict }}
{{- $listed := .Values.secrets }}
{{- range $stage := $stages }}
{{- $w := include "rollcall.workload" (dict "root" $ "stage" $stage) | fromJson }}
{{- $at := printf "%s.%s" (hasKey $known $stage | ternary "plugins" "workloads") $stage }}
{{- $listed = concat $listed $w.secrets }}
{{- $name := include "rollcall.workloadName" (dict "root" $ "stage" $stage) }}
{{- if hasKey $named $name }}
{{- $problems = append $problems (printf "%s: its workload would be %q, as that of %s is; give the plug-in another name" $at $name (get $named $name)) }}
{{- end }}
{{- $_ := set $named $name $stage }}
{{- /* Its pods have the label controller-revision-hash: the name, a hyphen and a hash of 10, in a label's 63. */}}
{{- if and (eq $w.state.type "volume") (gt (len $name) 52) }}
{{- $problems = append $problems (printf "%s.state.type: the StatefulSet %q would never get a pod, its name has %d characters and may have 52; set a shorter fullnameOverride%s" $at $name (len $name) (hasKey $known $stage | ternary ", or give the plug-in a shorter name" "")) }}
{{- end }}
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
{{- if and (hasPrefix "SASL" $kafka.security_protocol) (eq $kafka.sasl_mechanism "OAUTHBEARER") }}
{{- if not $kafka.oauth }}
{{- $problems = append $problems "config.kafka.oauth: sasl_mechanism OAUTHBEARER needs it" }}
{{- end }}
{{- range $stage := $stages }}
{{- $w := include "rollcall.workload" (dict "root" $ "stage" $stage) | fromJson }}
{{- if and (eq $w.autoscaling.type "keda") (not $.Values.keda.authentication.existing) }}
{{- $problems = append $problems "keda.authentication: with OAUTHBEARER KEDA wants to know its own token endpoint too; name a TriggerAuthentication of yours, with username, password, scopes and oauthTokenEndpointUri, in keda.authentication.existing" }}
{{- end }}
{{- end }}
{{- end }}
{{- range include "rollcall.secretsNamed" (toJson .Values.config) | fromJsonArray }}
{{- if not (has . $listed) }}
{{- $problems = append $problems (printf "config: a file below /secrets/%s/ is named, but the Secret %q is in no list of `secrets` and would not be mounted" . .) }}
{{- end }}
{{- end }}
{{- if .Values.topics.enabled }}
{{- $mounted := .Values.topics.secrets | default .Values.secrets }}
{{- range include "rollcall.secretsNamed" (include "rollcall.topicsConfig" . | fromYaml | toJson) | fromJsonArray }}
{{- if not (has . $mounted) }}
{{- $problems = append $problems (printf "topics: the job's configuration (config.kafka, with topics.kafka over it) names a file below /secrets/%s/, but %q is not among topics.secrets (empty: of `secrets`) and would not be mounted" . .) }}
{{- end }}
{{- end }}
{{- $volumes := list "config" "tmp" }}
{{- range $mounted }}
{{- $volumes = append $volumes (include "rollcall.secretVolume" .) }}
{{- end }}
{{- $problems = concat $problems (include "rollcall.twice" (dict "at" "topics" "what" "volumes" "key" "name" "own" $volumes "items" .Values.topics.volumes) | fromJsonArray) }}
{{- $problems = concat $problems (include "rollcall.twice" (dict "at" "topics" "what" "volumeMounts" "key" "mountPath" "own" (list "/etc/rollcall" "/tmp") "items" .Values.topics.volumeMounts) | fromJsonArray) }}
{{- end }}
{{- if $problems }}
{{- fail (printf "the values can't be used:\n  - %s" ($problems | uniq | join "\n  - ")) }}
{{- end }}
{{- end }}

{{/* The Secrets whose files a configuration names, as a JSON list; the configuration as JSON is the context. A path
begins with its quote: the middle of another path, or of a URL, is nothing of ours. */}}
{{- define "rollcall.secretsNamed" -}}
{{- $found := list }}
{{- range regexFindAll "\"/secrets/[^/\"]+/" . -1 }}
{{- $found = append $found (trimPrefix "\"/secrets/" . | trimSuffix "/") }}
{{- end }}
{{- $found | uniq | toJson }}
{{- end }}

{{/* Names that are there twice, as a JSON list of sentences. The chart's own may be twice too: the volumes of the
Secrets a.b and a-b have one name. */}}
{{- define "rollcall.twice" -}}
{{- $seen := dict }}
{{- $problems := list }}
{{- $names := .own }}
{{- range .items }}
{{- $names = append $names (index . $.key | toString) }}
{{- end }}
{{- range $name := $names }}
{{- if hasKey $seen $name }}
{{- $problems = append $problems (printf "%s.%s: %q is there twice (or is the chart's own)" $.at $.what $name) }}
{{- end }}
{{- $_ := set $seen $name true }}
{{- end }}
{{- toJson $problems }}
{{- end }}
