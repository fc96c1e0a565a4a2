#!/bin/bash
# A Kubernetes cluster of one node, of the programs that build.sh makes, in namespaces of its own: the
# host keeps its network, its mounts and its packages. Containers are in the host's cgroups.
#
#   node.sh up                    starts everything; the node is ready
#   node.sh load ARCHIVE...       images, as `podman save` writes them
#   node.sh k ARGUMENTS...        kubectl
#   node.sh in COMMAND...         in the network and the mounts of the node
#   node.sh start|stop PROGRAM    one of etcd, kube-apiserver, v1proxy, ...
#   node.sh down                  stops everything, and leaves nothing but W
#
# The host has runc, iptables, conntrack in its kernel, openssl and CNI's plugins in /usr/lib/cni.
# v1proxy is what pods are sent to: it serves EndpointSlices of discovery.k8s.io/v1, which Kubernetes
# 1.20 has not (V1PROXY_FLAGS=-off: it does not).
set -eu
W=${W:-/var/tmp/why502-cluster}
NODE=node-1
NODE_IP=192.0.2.10
SERVICES=10.96.0.0/16
PODS=10.244.0.0/24
NETNS=why502-node
export PATH=$W/bin:$W/unpacked/usr/bin:$W/unpacked/usr/sbin:/usr/sbin:/usr/bin:/sbin:/bin
RUN=$W/run LOG=$W/log PKI=$W/pki ETC=$W/etc
mkdir -p "$RUN" "$LOG" "$PKI" "$ETC"

PROGRAMS="etcd kube-apiserver v1proxy kube-controller-manager kube-scheduler containerd kubelet kube-proxy"

certificate() { # name subject [alternative names]
  local extension="keyUsage=digitalSignature,keyEncipherment
extendedKeyUsage=clientAuth,serverAuth
${3:+subjectAltName=$3}"
  openssl req -newkey rsa:2048 -nodes -keyout "$PKI/$1.key" -out "$PKI/$1.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$PKI/$1.csr" -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -CAcreateserial -days 30 \
    -out "$PKI/$1.crt" -extfile <(echo "$extension") 2>/dev/null
}

kubeconfig() { # name
  cat > "$ETC/$1.kubeconfig" <<Y
apiVersion: v1
kind: Config
current-context: c
clusters: [{name: c, cluster: {server: "https://$NODE_IP:6444", certificate-authority: $PKI/ca.crt}}]
users: [{name: u, user: {client-certificate: $PKI/$1.crt, client-key: $PKI/$1.key}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
Y
}

secrets() {
  [ -e "$PKI/ca.crt" ] && return
  openssl req -x509 -newkey rsa:2048 -nodes -days 30 -keyout "$PKI/ca.key" -out "$PKI/ca.crt" -subj /CN=ca 2>/dev/null
  openssl genrsa -out "$PKI/sa.key" 2048 2>/dev/null
  certificate apiserver /CN=kube-apiserver "IP:$NODE_IP,IP:127.0.0.1,IP:10.96.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  certificate admin /O=system:masters/CN=admin
  certificate kube-controller-manager /CN=system:kube-controller-manager
  certificate kube-scheduler /CN=system:kube-scheduler
  certificate kube-proxy /CN=system:kube-proxy
  certificate kubelet "/O=system:nodes/CN=system:node:$NODE" "IP:$NODE_IP,DNS:$NODE"
  for name in admin kube-controller-manager kube-scheduler kube-proxy kubelet; do kubeconfig $name; done
}

settings() {
  cat > "$ETC/audit.yaml" <<Y
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts:why502"]}
- {level: None, users: ["system:apiserver"]}
- {level: None, userGroups: ["system:nodes", "system:masters"]}
- {level: None, verbs: [get, list, watch]}
- {level: Metadata}
Y
  cat > "$ETC/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
healthzPort: 0
cgroupDriver: cgroupfs
failSwapOn: false
enforceNodeAllocatable: [pods]
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $PKI/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $PKI/kubelet.crt
tlsPrivateKeyFile: $PKI/kubelet.key
volumePluginDir: $W/volume-plugins
resolvConf: $ETC/resolv.conf
Y
  echo "nameserver 192.0.2.1" > "$ETC/resolv.conf"
  mkdir -p "$ETC/cni"
  cat > "$ETC/cni/10-bridge.conflist" <<Y
{"cniVersion": "0.4.0", "name": "bridge", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$W/ipam", "ranges": [[{"subnet": "$PODS", "rangeStart": "10.244.0.50", "rangeEnd": "10.244.0.57"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
Y
  cat > "$ETC/containerd.toml" <<Y
version = 2
root = "$W/containerd"
state = "$W/containerd-run"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "$RUN/containerd.sock"
[ttrpc]
  address = "$RUN/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "$W/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$ETC/cni"
Y
}

namespaces() {
  [ -e "$RUN/holder.pid" ] && return
  ip netns add $NETNS
  # Mounts that others add or remove meanwhile arrive here, ours do not leave.
  nsenter --net=/run/netns/$NETNS unshare --mount --propagation slave bash -c '
    mount --make-rshared /
    for folder in /var/lib /var/log /run/netns /run/containerd; do
      mkdir -p $folder
      mount -t tmpfs tmpfs $folder
    done
    exec sleep infinity' > /dev/null 2>&1 &
  echo $! > "$RUN/holder.pid"
  sleep 1
  inside ip link set lo up
  inside ip link add node0 type veth peer name node0-peer; inside ip link set node0-peer up
  inside ip address add $NODE_IP/24 dev node0
  inside ip link set node0 up
  inside ip route add default via 192.0.2.1
  inside sysctl -qw net.ipv4.ip_forward=1
}

inside() { nsenter --target "$(cat "$RUN/holder.pid")" --mount --net --wdns="$PWD" -- "$@"; }

command_of() {
  case $1 in
  etcd) echo etcd --data-dir "$W/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync ;;
  kube-apiserver) echo kube-apiserver --etcd-servers=http://127.0.0.1:2379 --secure-port=6444 --bind-address=0.0.0.0 \
    --advertise-address=$NODE_IP --endpoint-reconciler-type=none --service-cluster-ip-range=$SERVICES \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --client-ca-file="$PKI/ca.crt" --tls-cert-file="$PKI/apiserver.crt" --tls-private-key-file="$PKI/apiserver.key" \
    --kubelet-client-certificate="$PKI/admin.crt" --kubelet-client-key="$PKI/admin.key" --kubelet-certificate-authority="$PKI/ca.crt" \
    --kubelet-preferred-address-types=InternalIP \
    --service-account-key-file="$PKI/sa.key" --service-account-signing-key-file="$PKI/sa.key" \
    --service-account-issuer=https://kubernetes.default.svc --allow-privileged=true --anonymous-auth=false \
    --audit-policy-file="$ETC/audit.yaml" --audit-log-path="$LOG/audit.json" ${APISERVER_FLAGS:-} ;;
  kube-controller-manager) echo kube-controller-manager --kubeconfig="$ETC/kube-controller-manager.kubeconfig" \
    --authentication-kubeconfig="$ETC/kube-controller-manager.kubeconfig" --authorization-kubeconfig="$ETC/kube-controller-manager.kubeconfig" \
    --use-service-account-credentials --service-account-private-key-file="$PKI/sa.key" --root-ca-file="$PKI/ca.crt" \
    --leader-elect=false --bind-address=127.0.0.1 --port=0 --node-monitor-grace-period=120s ;;
  kube-scheduler) echo kube-scheduler --kubeconfig="$ETC/kube-scheduler.kubeconfig" --leader-elect=false --bind-address=127.0.0.1 --port=0 ;;
  kube-proxy) echo kube-proxy --kubeconfig="$ETC/kube-proxy.kubeconfig" --hostname-override=$NODE --proxy-mode=iptables \
    --cluster-cidr=$PODS --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 \
    --healthz-bind-address=127.0.0.1 --metrics-bind-address=127.0.0.1:10249 ;;
  containerd) echo containerd --config "$ETC/containerd.toml" ;;
  kubelet) echo kubelet --config="$ETC/kubelet.yaml" --kubeconfig="$ETC/kubelet.kubeconfig" --root-dir="$W/kubelet" \
    --hostname-override=$NODE --node-ip=$NODE_IP --container-runtime=remote --container-runtime-endpoint="unix://$RUN/containerd.sock" ;;
  v1proxy) echo v1proxy -listen 0.0.0.0:6443 -to https://127.0.0.1:6444 -ca "$PKI/ca.crt" -cert "$PKI/apiserver.crt" -key "$PKI/apiserver.key" \
    -log "$LOG/v1proxy.requests" ${V1PROXY_FLAGS:-} ;;
  esac
}

start() {
  local -a words
  read -ra words <<< "$(command_of "$1")"
  nice -n 5 env GOMAXPROCS=2 "$(command -v nsenter)" --target "$(cat "$RUN/holder.pid")" --mount --net -- \
    "${words[@]}" >> "$LOG/$1.log" 2>&1 < /dev/null &
  echo $! > "$RUN/$1.pid"
}

stop() {
  local pid
  [ -e "$RUN/$1.pid" ] || return 0
  pid=$(cat "$RUN/$1.pid")
  kill "${2:--TERM}" "$pid" 2>/dev/null || true
  for _ in $(seq 100); do [ -d "/proc/$pid" ] || break; sleep 0.1; done
  rm -f "$RUN/$1.pid"
}

until_it() { for _ in $(seq 240); do "$@" > /dev/null 2>&1 && return; sleep 0.5; done; echo "never: $*" >&2; return 1; }

k() { inside kubectl --kubeconfig "$ETC/admin.kubeconfig" "$@"; }

container() { inside ctr --address "$RUN/containerd.sock" --namespace k8s.io "$@"; }

load() { for archive in "$@"; do container images import "$archive"; done; }

# The image of the pods' own pause, from a program and no registry.
pause() {
  container images list --quiet | grep --quiet localhost/pause:1 && return
  local folder=$W/pause
  mkdir -p "$folder"
  cp "$W/bin/pause" "$folder/"
  printf 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n' > "$folder/Containerfile"
  local -a podman=(podman --root "$W/podman" --runroot "$W/podman-run" --storage-driver vfs)
  "${podman[@]}" build --quiet --isolation chroot --tag localhost/pause:1 "$folder"
  "${podman[@]}" save --quiet --output "$W/pause.tar" localhost/pause:1
  load "$W/pause.tar"
}

up() {
  secrets; settings; namespaces
  start etcd; sleep 1
  start kube-apiserver
  until_it k get --raw /readyz
  for program in v1proxy kube-controller-manager kube-scheduler containerd; do start $program; done
  until_it container version
  pause
  inside sysctl -qw net.bridge.bridge-nf-call-iptables=1
  start kubelet; start kube-proxy
  # Pods ask the API server through v1proxy.
  k apply -f - <<Y
apiVersion: v1
kind: Endpoints
metadata: {name: kubernetes, namespace: default}
subsets: [{addresses: [{ip: $NODE_IP}], ports: [{name: https, port: 6443}]}]
Y
  until_it k wait --for=condition=Ready --timeout=1s node/$NODE
}

down() {
  [ -e "$RUN/holder.pid" ] || return 0
  if [ -e "$RUN/kube-apiserver.pid" ]; then
    k delete daemonsets,deployments,statefulsets --all --all-namespaces --timeout=60s || true
    k delete pods --all --all-namespaces --force --grace-period=0 || true
    sleep 10
  fi
  for program in kubelet kube-proxy; do stop $program; done
  for task in $(container tasks list --quiet); do
    container tasks kill --signal SIGKILL "$task" || true
    container tasks delete --force "$task" || true
  done
  for program in $(tac -s ' ' <<< "$PROGRAMS "); do stop "$program"; done
  kill "$(cat "$RUN/holder.pid")"
  rm "$RUN/holder.pid"
  ip netns delete $NETNS
  rmdir /run/containerd || true
  for folder in /sys/fs/cgroup/kubepods /sys/fs/cgroup/*/kubepods; do
    [ ! -d "$folder" ] || find "$folder" -depth -type d -exec rmdir {} +
  done
}

case ${1:-} in
up|down) "$1" ;;
load|k|start|stop) "$@" ;;
in) shift; inside "$@" ;;
*) sed -n '2,/^set/p' "$0" | grep '^#'; exit 1 ;;
esac
