//! Which container and which pod a cgroup path names.
//!
//! In: the text of `/proc/PID/cgroup`, of either cgroup version or of both at once. Out: the ids
//! in it. Nothing is asked of anyone: container managers write the id of a container into the
//! name of its cgroup, and the kubelet the uid of a pod. A pure function: it never panics, and an
//! id it gives is always 64 hexadecimal digits.

use std::sync::Arc;

/// Digits of a container id: Docker, containerd, CRI-O and podman all use 256 random bits.
const CONTAINER_DIGITS: usize = 64;

/// Digits of the uid of a pod that the kubelet read from a file (a static pod): an MD5.
const STATIC_POD_DIGITS: usize = 32;

/// Where the hyphens of a UUID are.
const UUID_HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// Length of a UUID.
const UUID_LENGTH: usize = 36;

/// Part of the name of a cgroup that holds what watches over a container, not the container.
const MONITOR: &str = "conmon";

/// What a name ends in that podman gives to the cgroup of a pod of its own.
const PODMAN_POD: &str = "libpod_pod";

/// What a cgroup path names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ids {
    /// Id of the innermost container, 64 lower-case hexadecimal digits.
    pub container: Option<Arc<str>>,
    /// Uid of the Kubernetes pod around it: a UUID with hyphens, or for a static pod the 32
    /// digits that the API server shows as annotation `kubernetes.io/config.hash`.
    pub pod_uid: Option<Arc<str>>,
}

/// The ids in the text of `/proc/PID/cgroup`. A process has a path in each hierarchy; on a host
/// with both versions a manager may use either, so the first path that names a container counts.
pub fn ids_of(text: &str) -> Ids {
    let mut best = Ids::default();
    // "hierarchy:controllers:path", and the path may hold colons (cgroups(7)).
    for path in text.lines().filter_map(|line| line.splitn(3, ':').nth(2)) {
        let ids = ids_of_path(path);
        if ids.container.is_some() {
            return ids;
        }
        if best.pod_uid.is_none() {
            best = ids;
        }
    }
    best
}

/// The path of version 2 in that text.
pub fn version_2(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The ids in one path. The innermost container counts: a container may run others.
pub fn ids_of_path(path: &str) -> Ids {
    let mut ids = Ids::default();
    // containerd writes "slice:prefix:id" where it is told to use systemd and cannot.
    for name in path.rsplit(['/', ':']) {
        if ids.container.is_none() {
            if name.contains(MONITOR) {
                return Ids::default();
            }
            ids.container = container(name).map(Arc::from);
        }
        if let Some(uid) = pod_uid(name) {
            ids.pod_uid = Some(Arc::from(uid));
            return ids;
        }
    }
    ids
}

/// `ID`, `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID`, `libpod-ID.scope` and so on.
fn container(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (prefix, id) = match name.rsplit_once('-') {
        Some((prefix, id)) => (prefix, id),
        None => ("", name),
    };
    let is_id = id.len() == CONTAINER_DIGITS && id.bytes().all(is_digit);
    (is_id && !prefix.ends_with(PODMAN_POD)).then_some(id)
}

/// `podUID` of the driver cgroupfs, or `...-podUID.slice` of systemd, where `-` would part names
/// and is written `_`.
fn pod_uid(name: &str) -> Option<String> {
    let written = match name.strip_suffix(".slice") {
        Some(stem) => stem.rsplit_once('-').map_or(stem, |(_, last)| last),
        None => name,
    };
    let uid = written.strip_prefix("pod")?.replace('_', "-");
    let is_uuid = uid.len() == UUID_LENGTH
        && uid.bytes().enumerate().all(|(at, byte)| {
            if UUID_HYPHENS.contains(&at) {
                byte == b'-'
            } else {
                is_digit(byte)
            }
        });
    let is_static = uid.len() == STATIC_POD_DIGITS && uid.bytes().all(is_digit);
    (is_uuid || is_static).then_some(uid)
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::any;
    use proptest::{prop_assert, prop_assert_eq, prop_oneof, proptest};

    use super::{CONTAINER_DIGITS, Ids, ids_of, ids_of_path};

    const ID: &str = "4f2a9c1be7d04c55b1d3a6f8e09c7b12d4e5f60718293a4b5c6d7e8f90a1b2c3";
    const OUTER: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const UID: &str = "7a1d4f0e-3c5b-4b1e-9f57-2f0c9ad1e6b4";
    const SYSTEMD_UID: &str = "7a1d4f0e_3c5b_4b1e_9f57_2f0c9ad1e6b4";
    const STATIC_UID: &str = "d0c9b1f2e3a4958677889900aabbccdd";

    fn spelt(template: &str) -> String {
        template
            .replace("{id}", ID)
            .replace("{outer}", OUTER)
            .replace("{uid}", UID)
            .replace("{uid_}", SYSTEMD_UID)
            .replace("{static}", STATIC_UID)
    }

    fn parts(ids: &Ids) -> (Option<&str>, Option<&str>) {
        (ids.container.as_deref(), ids.pod_uid.as_deref())
    }

    #[test]
    fn each_manager_and_driver_is_read() {
        let container = (Some(ID), None);
        let pod = (Some(ID), Some(UID));
        let cases = [
            // Docker: cgroupfs, systemd, rootless.
            ("/docker/{id}", container),
            ("/system.slice/docker-{id}.scope", container),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{id}.scope",
                container,
            ),
            // A service manager within the container.
            ("/system.slice/docker-{id}.scope/init.scope", container),
            ("/docker/{id}/system.slice/nginx.service", container),
            // containerd without Kubernetes: ctr, nerdctl.
            ("/default/{id}", container),
            ("/system.slice/nerdctl-{id}.scope", container),
            // podman: root, rootless, cgroupfs, a pod of its own.
            ("/machine.slice/libpod-{id}.scope", container),
            ("/machine.slice/libpod-{id}.scope/container", container),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope/container",
                container,
            ),
            ("/libpod_parent/libpod-{id}", container),
            (
                "/machine.slice/machine-libpod_pod_{outer}.slice/libpod-{id}.scope/container",
                container,
            ),
            ("/libpod_parent/{outer}/libpod-{id}", container),
            // Kubernetes with containerd: systemd in each class of service, cgroupfs, the
            // form that names the slice and the id in one, kind (a node that is a container).
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice/cri-containerd-{id}.scope",
                pod,
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{uid_}.slice/cri-containerd-{id}.scope",
                pod,
            ),
            (
                "/kubepods.slice/kubepods-pod{uid_}.slice/cri-containerd-{id}.scope",
                pod,
            ),
            ("/kubepods/burstable/pod{uid}/{id}", pod),
            ("/kubepods/pod{uid}/{id}", pod),
            (
                "/system.slice/containerd.service/kubepods-burstable-pod{uid_}.slice:cri-containerd:{id}",
                pod,
            ),
            (
                "/docker/{outer}/kubelet/kubepods/besteffort/pod{uid}/{id}",
                pod,
            ),
            (
                "/system.slice/docker-{outer}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{uid_}.slice/cri-containerd-{id}.scope",
                pod,
            ),
            // Kubernetes with CRI-O: systemd, with crun's own group below, cgroupfs.
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice/crio-{id}.scope",
                pod,
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid_}.slice/crio-{id}.scope/container",
                pod,
            ),
            ("/kubepods/besteffort/pod{uid}/crio-{id}", pod),
            // Kubernetes with Docker (cri-dockerd).
            (
                "/kubepods.slice/kubepods-pod{uid_}.slice/docker-{id}.scope",
                pod,
            ),
            // A static pod has the hash of its file for a uid.
            (
                "/kubepods/burstable/pod{static}/{id}",
                (Some(ID), Some(STATIC_UID)),
            ),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{static}.slice/crio-{id}.scope",
                (Some(ID), Some(STATIC_UID)),
            ),
            // Docker in a pod: the innermost container, and the pod around it.
            ("/kubepods/burstable/pod{uid}/{outer}/docker/{id}", pod),
            // As a process in a cgroup namespace of its own sees its neighbours.
            (
                "/../../kubepods-burstable-pod{uid_}.slice/cri-containerd-{id}.scope",
                pod,
            ),
            ("/../{id}", container),
            ("/../../../system.slice/docker-{id}.scope", container),
            // Amazon ECS.
            ("/ecs/my-cluster/5e2c3a/{id}", container),
        ];
        for (path, expected) in cases {
            assert_eq!(parts(&ids_of_path(&spelt(path))), expected, "{path}");
        }
    }

    #[test]
    fn what_is_no_container_gives_no_id() {
        for path in [
            "/",
            "",
            "/..",
            "/../..",
            "/init.scope",
            "/system.slice/nginx.service",
            "/user.slice/user-1000.slice/session-3.scope",
            "/lxc.payload.web",
            // What watches over a container.
            "/machine.slice/libpod-conmon-{id}.scope",
            "/kubepods.slice/kubepods-pod{uid_}.slice/crio-conmon-{id}.scope",
            // podman's pod alone.
            "/machine.slice/machine-libpod_pod_{id}.slice",
            // Too short, too long, not hexadecimal, upper case.
            "/docker/4f2a9c1be7d0",
            "/docker/{id}0",
            "/docker/g{id}",
            "/docker/4F2A9C1BE7D04C55B1D3A6F8E09C7B12D4E5F60718293A4B5C6D7E8F90A1B2C3",
        ] {
            let ids = ids_of_path(&spelt(path));
            assert_eq!(ids.container, None, "{path}");
        }
    }

    #[test]
    fn a_process_of_the_pod_itself_has_the_pod_alone() {
        let path = spelt("/kubepods.slice/kubepods-pod{uid_}.slice");

        assert_eq!(parts(&ids_of_path(&path)), (None, Some(UID)));
    }

    #[test]
    fn of_several_hierarchies_the_one_that_names_a_container_counts() {
        // Version 1 beside an empty version 2.
        let hybrid = spelt(
            "11:memory:/kubepods/burstable/pod{uid}/{id}\n4:cpu,cpuacct:/kubepods/burstable/pod{uid}/{id}\n\
             1:name=systemd:/system.slice/containerd.service\n0::/system.slice/containerd.service\n",
        );
        assert_eq!(parts(&ids_of(&hybrid)), (Some(ID), Some(UID)));
        // Version 2 beside a version 1 that nobody uses.
        let hybrid = spelt("9:name=systemd:/\n8:pids:/\n0::/machine.slice/libpod-{id}.scope\n");
        assert_eq!(parts(&ids_of(&hybrid)), (Some(ID), None));
        // A process whose memory is counted for the pod, and which runs elsewhere.
        let partial = spelt("4:memory:/kubepods/pod{uid}\n0::/docker/{id}\n");
        assert_eq!(parts(&ids_of(&partial)), (Some(ID), None));
        assert_eq!(ids_of("0::/\n"), Ids::default());
        assert_eq!(ids_of("nothing of the kind"), Ids::default());
    }

    proptest! {
        #[test]
        fn whatever_the_text_is_an_id_has_64_digits(
            text in prop_oneof![
                any::<String>(),
                "([0-9]{1,2}:[a-z,]{0,6}:(/|:|-|pod|docker|crio|conmon|libpod|\\.scope|\\.slice|[0-9a-f_]{1,64}){0,9}\n){0,4}",
            ]
        ) {
            let Ids { container, pod_uid } = ids_of(&text);
            if let Some(id) = container {
                prop_assert_eq!(id.len(), CONTAINER_DIGITS);
                prop_assert!(id.bytes().all(super::is_digit));
            }
            if let Some(uid) = pod_uid {
                prop_assert!(uid.len() == 36 || uid.len() == 32);
            }
        }

        #[test]
        fn an_id_is_found_wherever_it_stands(
            before in "(/[a-z0-9.@]{1,12}){0,5}",
            id in "[0-9a-f]{64}",
            after in "(/[a-z]{1,9}\\.service){0,2}",
        ) {
            let ids = ids_of_path(&format!("{before}/docker-{id}.scope{after}"));
            prop_assert_eq!(ids.container.as_deref(), Some(id.as_str()));
        }
    }
}
