#!/bin/bash
# Builds the programs of Kubernetes 1.20.2 from Debian's source package, with Debian's Go 1.19, into W/bin,
# and unpacks etcd, containerd and conntrack into W/unpacked. Nothing is installed. Five minutes of two
# CPUs and 4 GB.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
W=${W:-/var/tmp/why502-cluster}
mkdir -p "$W"/{bin,unpacked,debs,tmp,apt/lists/partial,go/src/k8s.io}

cd "$W/debs"
apt-get download golang-1.19-go golang-1.19-src etcd-server containerd conntrack
for package in *.deb; do dpkg -x "$package" "$W/unpacked"; done

# Sources from where the packages come from.
sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources > "$W/apt/debian.sources"
apt=(-o Dir::Etc::sourcelist="$W/apt/debian.sources" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$W/apt/lists")
apt-get "${apt[@]}" --quiet update
apt-get "${apt[@]}" source --download-only --quiet kubernetes
source=$W/go/src/k8s.io/kubernetes
mkdir -p "$source"
tar --extract --gzip --strip-components=1 --directory "$source" --file kubernetes_*.orig.tar.gz

# Its reflect2 is of before Go 1.18, where reflect.mapiterinit fills an iterator of the caller's.
python3 - "$source/vendor/github.com/modern-go/reflect2" <<'P'
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
link, map_type = folder / "unsafe_link.go", folder / "unsafe_map.go"
text = link.read_text()
text = text.replace("m unsafe.Pointer) *hiter", "m unsafe.Pointer, it *hiter)")
text = text.replace("	// rest fields are ignored\n", """	t, h, buckets, bptr    unsafe.Pointer
	overflow, oldoverflow  *[]unsafe.Pointer
	startBucket            uintptr
	offset                 uint8
	wrapped                bool
	B, i                   uint8
	bucket, checkBucket    uintptr
""")
link.write_text(text)
text = map_type.read_text()
text = text.replace("	return &UnsafeMapIterator{\n		hiter:      mapiterinit(type2.rtype, *(*unsafe.Pointer)(obj)),",
    "	var it hiter\n	mapiterinit(type2.rtype, *(*unsafe.Pointer)(obj), &it)\n	return &UnsafeMapIterator{\n		hiter:      &it,")
map_type.write_text(text)
P

export GOROOT=$W/unpacked/usr/lib/go-1.19 GOPATH=$W/go GOCACHE=$W/gocache GOTMPDIR=$W/tmp
export GOFLAGS= GO111MODULE=off CGO_ENABLED=0 GOMAXPROCS=2
go=(nice "$GOROOT/bin/go" build -p 2 -trimpath)
cd "$source"
# The one generated file that the source package lacks.
"${go[@]}" -o "$W/bin/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
tagged=$(grep --dereference-recursive --files-with-matches --include='*.go' '+k8s:openapi-gen=' vendor/k8s.io/ |
  grep --invert-match --regexp code-generator --regexp sample- --regexp kube-openapi | xargs --max-args=1 dirname | sort --unique)
inputs=$(for folder in $tagged; do printf 'k8s.io/kubernetes/%s,' "$folder"; done)
"$W/bin/openapi-gen" --input-dirs "${inputs%,}" --output-package k8s.io/kubernetes/pkg/generated/openapi \
  --output-file-base zz_generated.openapi --go-header-file hack/boilerplate/boilerplate.generatego.txt \
  --report-filename "$W/tmp/violations" --output-base "$W/tmp/openapi"
cp "$W/tmp/openapi/k8s.io/kubernetes/pkg/generated/openapi/zz_generated.openapi.go" pkg/generated/openapi/

flags="-s -w"
for package in component-base/version client-go/pkg/version; do
  flags+=" -X k8s.io/kubernetes/vendor/k8s.io/$package.gitVersion=v1.20.2"
  flags+=" -X k8s.io/kubernetes/vendor/k8s.io/$package.gitMajor=1 -X k8s.io/kubernetes/vendor/k8s.io/$package.gitMinor=20"
done
for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do
  "${go[@]}" -ldflags "$flags" -o "$W/bin/$program" "./cmd/$program"
done
gcc -Os -static -o "$W/bin/pause" build/pause/linux/pause.c
cd "$here"
"${go[@]}" -o "$W/bin/v1proxy" v1proxy.go
