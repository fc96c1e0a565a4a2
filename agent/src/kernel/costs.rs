//! What the kernel says of the programs' and maps' cost.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya::programs::ProgramInfo;

/// Cost of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    /// Its name.
    pub name: String,
    /// Runs since loaded, while `kernel.bpf_stats_enabled` was 1.
    pub runs: u64,
    /// Time of these runs, nanoseconds.
    pub nanos: u64,
    /// Instructions the verifier walked (5.16).
    pub verified_instructions: Option<u32>,
}

/// Size and use of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUse {
    /// Its name.
    pub name: String,
    /// Entries it may hold; 0 for socket storage, which holds one a socket.
    pub max_entries: u64,
    /// Bytes of memory, where the kernel can tell.
    pub bytes: Option<u64>,
}

pub(super) fn programs(ebpf: &Ebpf) -> Vec<ProgramCost> {
    ebpf.programs()
        .filter_map(|(name, program)| Some((name, program.info().ok()?)))
        .map(|(name, info)| cost(name, &info))
        .collect()
}

fn cost(name: &str, info: &ProgramInfo) -> ProgramCost {
    ProgramCost {
        name: name.to_owned(),
        runs: info.run_count(),
        nanos: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
        verified_instructions: info.verified_instruction_count(),
    }
}

pub(super) fn maps(ebpf: &Ebpf) -> Vec<MapUse> {
    ebpf.maps()
        .filter_map(|(name, map)| {
            let data = data(map)?;
            let info = data.info().ok()?;
            Some(MapUse {
                name: name.to_owned(),
                max_entries: u64::from(info.max_entries()),
                bytes: memlock(data),
            })
        })
        .collect()
}

pub(super) fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::CgroupArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::Queue(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data) => Some(data),
        _ => None,
    }
}

/// `memlock` of a map, by our own descriptor: opening one by its id needs CAP_SYS_ADMIN.
pub(super) fn memlock(map: &MapData) -> Option<u64> {
    let fd = map.fd().as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}
