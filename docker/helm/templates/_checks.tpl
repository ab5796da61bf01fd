{{/* Refuses values that cannot work. values.schema.json has refused unknown keys and wrong types before. */}}
{{- define "users-sync.checks" -}}
{{- if .Values.existingConfigMap -}}
{{- if or .Values.config.source .Values.configFiles -}}
{{- fail "existingConfigMap excludes config and configFiles: remove one of them" -}}
{{- end -}}
{{- else -}}
{{- include "users-sync.checkConfig" . -}}
{{- include "users-sync.checkSecrets" . -}}
{{- end -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) 15 -}}
{{- fail (printf "terminationGracePeriodSeconds is %v, but a process takes up to 10 s to stop: set at least 15" .Values.terminationGracePeriodSeconds) -}}
{{- end -}}
{{- if and .Values.spool.storageClassName (ne .Values.spool.kind "claim") -}}
{{- fail "spool.storageClassName has no effect on an emptyDir: set spool.kind to claim" -}}
{{- end -}}
{{- range .Values.secretFiles -}}
{{- if hasPrefix "/etc/users-sync/" (printf "%s/" .mountPath) -}}
{{- fail (printf "secretFiles: %s is inside the directory of the configuration, which is read-only: use another one, such as /run/secrets/targets" .mountPath) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "users-sync.checkConfig" -}}
{{- $config := .Values.config -}}
{{- if not $config.source -}}
{{- fail "there is no configuration: set config (source, users and tenants, as in users-sync.yaml) or existingConfigMap" -}}
{{- end -}}
{{- if not $config.users -}}
{{- fail "config.users is missing: it says how a row of the auth database becomes a user" -}}
{{- end -}}
{{- if not (or $config.tenants $config.include) -}}
{{- fail "config.tenants is missing: list the tenants, or set config.include" -}}
{{- end -}}
{{- if and .Values.configFiles (not $config.include) -}}
{{- fail "configFiles are not read: set config.include, such as [\"tenants-*.yaml\"]" -}}
{{- end -}}
{{- if hasKey .Values.configFiles "users-sync.yaml" -}}
{{- fail "configFiles must not contain users-sync.yaml: that is config" -}}
{{- end -}}
{{- if not (kindIs "map" $config.admin) -}}
{{- fail "config.admin is missing: without it users-sync listens nowhere, and the probes fail" -}}
{{- end -}}
{{- $listen := $config.admin.listen | default "127.0.0.1:9187" -}}
{{- if regexMatch "^(127\\.|\\[::1\\])" $listen -}}
{{- fail (printf "config.admin.listen is %s, which the probes cannot reach: set 0.0.0.0:%v" $listen .Values.adminPort) -}}
{{- end -}}
{{- if not (or (contains "${" $listen) (hasSuffix (printf ":%v" .Values.adminPort) $listen)) -}}
{{- fail (printf "config.admin.listen is %s, but adminPort is %v: the probes would fail" $listen .Values.adminPort) -}}
{{- end -}}
{{- if not $config.admin.token -}}
{{- fail "config.admin.token is missing: an address that others reach requires one, such as ${ADMIN_TOKEN}" -}}
{{- end -}}
{{- with $config.spool -}}
{{- if ne (toString .directory) "/var/spool/users-sync" -}}
{{- fail (printf "config.spool.directory is %v, but the volume is /var/spool/users-sync, and everything else is read-only" .directory) -}}
{{- end -}}
{{- if not (contains "${" (toString .size)) -}}
{{- $size := include "users-sync.bytes" (.size | default "4GB") | int64 -}}
{{- if le (include "users-sync.bytes" $.Values.spool.volumeSize | int64) (mul 2 $size) -}}
{{- fail (printf "spool.volumeSize is %s, but snapshots and a comparison may each take config.spool.size (%v): set more than twice that" $.Values.spool.volumeSize (.size | default "4GB")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Secrets stay out of the ConfigMap, and every variable that the configuration names is there. */}}
{{- define "users-sync.checkSecrets" -}}
{{- $config := .Values.config -}}
{{- $text := toYaml (list $config .Values.configFiles) -}}
{{- if regexMatch "://[^/@:\\s'\"]*:[^/@$\\s'\"][^/@\\s'\"]*@" $text -}}
{{- fail "config contains a URL with a password, and a ConfigMap is no place for it: use a variable of a Secret, such as ${AUTH_DATABASE_URL}" -}}
{{- end -}}
{{- if regexMatch "[?&](password|sslpassword)=[^$&\\s'\"]" $text -}}
{{- fail "config contains a URL with a password, and a ConfigMap is no place for it: use a variable of a Secret, such as ${AUTH_DATABASE_URL}" -}}
{{- end -}}
{{- if not (contains "${" (toString $config.admin.token)) -}}
{{- fail "config.admin.token is a literal, and a ConfigMap is no place for it: use a variable of a Secret, such as ${ADMIN_TOKEN}" -}}
{{- end -}}
{{- if regexMatch "\\n[ -]*hash:\\n +(email:[^\\n]*\\n +)?key: *['\"]?[^'\"$\\s]" $text -}}
{{- fail "hash.key is a literal, and a ConfigMap is no place for it: use a variable of a Secret, such as ${HASH_KEY}" -}}
{{- end -}}
{{- range $name, $value := (default dict $config.kafka).properties -}}
{{- if and (regexMatch "password|secret|key\\.pem" $name) (not (contains "${" (toString $value))) -}}
{{- fail (printf "config.kafka.properties has a literal %s, and a ConfigMap is no place for it: use a variable of a Secret, such as ${KAFKA_PASSWORD}" $name) -}}
{{- end -}}
{{- end -}}
{{- if not .Values.existingSecrets -}}
{{- $given := keys .Values.secrets -}}
{{- range .Values.extraEnv -}}
{{- $given = append $given .name -}}
{{- end -}}
{{- $missing := list -}}
{{- range regexFindAll "(^|[^$])\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}" $text -1 -}}
{{- $name := regexFind "[A-Za-z_][A-Za-z0-9_]*\\}$" . | trimSuffix "}" -}}
{{- if not (has $name $given) -}}
{{- $missing = append $missing $name -}}
{{- end -}}
{{- end -}}
{{- if $missing -}}
{{- fail (printf "config names variables that no Secret provides: %s: set existingSecrets, or secrets for a trial" ($missing | uniq | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}
{{- end }}
