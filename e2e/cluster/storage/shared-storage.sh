#!/bin/sh
# Volumes for claims of storage class "shared": a directory that every node mounts, one folder a claim.
#
# For tests alone. Runs on the control plane's node, outside the cluster, so that no pod needs the right to it.
# The mode is 0777 because Kubernetes applies no fsGroup to a hostPath.
export KUBECONFIG=/etc/kubernetes/admin.conf
root=/exchange/volumes

provide() { # namespace name uid size modes
  mkdir -p -m 0777 "$root/$3"
  chmod 0777 "$root/$3"
  kubectl apply -f - <<EOF
apiVersion: v1
kind: PersistentVolume
metadata: {name: shared-$3}
spec:
  capacity: {storage: $4}
  accessModes: $5
  storageClassName: shared
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: $root/$3, type: Directory}
  claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: $1, name: $2, uid: $3}
EOF
}

claims='{.spec.storageClassName}|{.status.phase}|{.metadata.namespace}|{.metadata.name}|{.metadata.uid}|{.spec.resources.requests.storage}|{.spec.accessModes}{"\n"}'
volumes='{.spec.storageClassName}|{.status.phase}|{.metadata.name}{"\n"}'

while :; do
  kubectl get pvc --all-namespaces --watch -o jsonpath="$claims" | while IFS='|' read -r class phase namespace name uid size modes; do
    [ "$class" = shared ] && [ "$phase" = Pending ] && provide "$namespace" "$name" "$uid" "$size" "$modes"
  done
  sleep 1
done &

while :; do
  kubectl get pv --watch -o jsonpath="$volumes" | while IFS='|' read -r class phase name; do
    [ "$class" = shared ] && [ "$phase" = Released ] && kubectl delete pv "$name" && rm -rf "${root:?}/${name#shared-}"
  done
  sleep 1
done
