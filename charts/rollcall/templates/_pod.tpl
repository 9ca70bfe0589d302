{{/* The pod template of a stage: a dict of root, stage and workload. */}}
{{- define "rollcall.pod" -}}
{{- $root := .root -}}
{{- $w := .workload -}}
metadata:
  labels:
    {{- include "rollcall.podLabels" (dict "root" $root "component" .stage "more" $w.podLabels) | nindent 4 }}
  annotations:
    {{- $own := dict "checksum/config" (include "rollcall.config" $root | sha256sum) }}
    {{- $_ := set $own "kubectl.kubernetes.io/default-container" "rollcall" }}
    {{- merge $own $w.podAnnotations | toYaml | nindent 4 }}
spec:
  serviceAccountName: {{ include "rollcall.serviceAccountName" $root }}
  {{- include "rollcall.podCommon" $root | nindent 2 }}
  terminationGracePeriodSeconds: {{ add (int $root.Values.drainSeconds) 20 }}
  {{- with $w.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $w.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with $w.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $w.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $w.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $w.topologySpread.keys }}
  topologySpreadConstraints:
    {{- range $w.topologySpread.keys }}
    - topologyKey: {{ . }}
      maxSkew: 1
      whenUnsatisfiable: {{ $w.topologySpread.whenUnsatisfiable }}
      labelSelector:
        matchLabels:
          {{- include "rollcall.selector" (dict "root" $root "component" $.stage) | nindent 10 }}
      matchLabelKeys:
        - {{ eq $w.state.type "volume" | ternary "controller-revision-hash" "pod-template-hash" }}
    {{- end }}
  {{- end }}
  {{- with $w.initContainers }}
  initContainers:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: rollcall
      {{- include "rollcall.containerCommon" $root | nindent 6 }}
      command: ["rollcall"]
      args: {{ concat (list "--config" "/etc/rollcall/rollcall.yaml") (eq .stage "poll" | ternary (list "poll") (list "handle" .stage)) | toJson }}
      {{- with $w.env }}
      env:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: {{ int $root.Values.port }}
      startupProbe:
        httpGet:
          path: /livez
          port: http
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: {{ div (add (int $w.probes.startup.seconds) 4) 5 }}
      livenessProbe:
        httpGet:
          path: /livez
          port: http
        periodSeconds: {{ int $w.probes.liveness.period }}
        timeoutSeconds: 5
        failureThreshold: {{ int $w.probes.liveness.failures }}
      readinessProbe:
        httpGet:
          path: /readyz
          port: http
        periodSeconds: {{ int $w.probes.readiness.period }}
        timeoutSeconds: 5
        failureThreshold: {{ int $w.probes.readiness.failures }}
      resources:
        {{- include "rollcall.resources" $w | nindent 8 }}
      volumeMounts:
        - name: config
          mountPath: /etc/rollcall
          readOnly: true
        - name: state
          mountPath: /state
        - name: tmp
          mountPath: /tmp
        {{- include "rollcall.secretMounts" $w.secrets | trim | nindent 8 }}
        {{- with $w.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with $w.containers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "rollcall.fullname" $root }}
    {{- if ne $w.state.type "volume" }}
    - name: state
      emptyDir:
        sizeLimit: {{ int $w.state.sizeGiB }}Gi
    {{- end }}
    - name: tmp
      emptyDir:
        sizeLimit: 64Mi
    {{- include "rollcall.secretVolumes" $w.secrets | trim | nindent 4 }}
    {{- with $w.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* Resources, with room on the node's disk for an emptyDir of state, the logs and /tmp. */}}
{{- define "rollcall.resources" -}}
{{- $disk := dict "ephemeral-storage" (eq .state.type "volume" | ternary "1Gi" (printf "%dGi" (add 1 (int .state.sizeGiB)))) }}
{{- $room := dict "requests" $disk "limits" $disk | deepCopy }}
{{- mustMergeOverwrite $room (deepCopy .resources) | toYaml }}
{{- end }}
