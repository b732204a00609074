//! v2 from files as Linux 6.12 writes them; this host's own version from a real cgroup.

use std::fs;

use super::*;
use crate::model::{CpuUsage, HugePages, MemoryUsage, Pressure, Stall, SwapUsage, Throttling};

const CPU_STAT: &str = "usage_usec 2745821\nuser_usec 2190404\nsystem_usec 555417\nnice_usec 0\n\
    core_sched.force_idle_usec 0\nnr_periods 61\nnr_throttled 58\nthrottled_usec 4630112\nnr_bursts 0\nburst_usec 0\n";
const MEMORY_STAT: &str = "anon 67727360\nfile 1224704\nkernel 598016\nkernel_stack 32768\npagetables 229376\n\
    sec_pagetables 0\npercpu 1080\nsock 0\nvmalloc 0\nshmem 0\nzswap 0\nzswapped 0\nfile_mapped 978944\n\
    file_dirty 0\nfile_writeback 0\nswapcached 0\nanon_thp 62914560\nfile_thp 0\nshmem_thp 0\ninactive_anon 67702784\n\
    active_anon 4096\ninactive_file 245760\nactive_file 978944\nunevictable 0\nslab_reclaimable 163680\n\
    slab_unreclaimable 96288\nslab 259968\nworkingset_refault_anon 0\nworkingset_refault_file 0\npgscan 0\n\
    pgfault 1834\npgmajfault 11\npgrefill 0\nthp_fault_alloc 30\n";
const PRESSURE: &str = "some avg10=12.34 avg60=3.10 avg300=0.71 total=4653821\n\
    full avg10=12.00 avg60=3.00 avg300=0.70 total=4630208\n";
const IO_STAT: &str = "253:16 rbytes=978944 wbytes=10485760 rios=25 wios=20 dbytes=0 dios=0\n7:0 \n";

/// A container limited in CPU, memory and processes on a host with swap.
fn recorded() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("cpu.stat", CPU_STAT),
        ("cpu.pressure", PRESSURE),
        ("cpu.max", "20000 100000\n"),
        ("cpu.weight", "39\n"),
        ("memory.current", "69550080\n"),
        ("memory.stat", MEMORY_STAT),
        ("memory.max", "134217728\n"),
        ("memory.min", "0\n"),
        ("memory.peak", "70012928\n"),
        (
            "memory.events",
            "low 0\nhigh 7\nmax 3\noom 1\noom_kill 1\noom_group_kill 0\n",
        ),
        ("memory.swap.current", "4096\n"),
        ("memory.swap.max", "max\n"),
        ("memory.pressure", PRESSURE),
        ("io.pressure", PRESSURE),
        ("io.stat", IO_STAT),
        ("pids.current", "5\n"),
        ("pids.max", "max\n"),
        ("cgroup.procs", "4711\n4712\n"),
        ("hugetlb.2MB.current", "2097152\n"),
        ("hugetlb.2MB.rsvd.current", "0\n"),
    ];
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

#[test]
fn v2_files_are_read() {
    let dir = recorded();
    let stall = |total_us, avg10, avg60, avg300| Stall {
        total_us,
        avg10,
        avg60,
        avg300,
    };
    let pressure = Some(Pressure {
        some: stall(4_653_821, 12.34, 3.1, 0.71),
        full: stall(4_630_208, 12.0, 3.0, 0.7),
    });
    let expected = Usage {
        at: Timestamp::default(),
        cpu: Some(CpuUsage {
            total_ns: 2_745_821_000,
            nano_cores: None,
            pressure,
        }),
        memory: Some(MemoryUsage {
            used_bytes: 69_550_080,
            inactive_file_bytes: 245_760,
            rss_bytes: 67_727_360,
            limit_bytes: Some(134_217_728),
            page_faults: 1834,
            major_page_faults: 11,
            pressure,
        }),
        swap: Some(SwapUsage {
            used_bytes: 4096,
            limit_bytes: None,
        }),
        io: pressure,
        processes: 0,
    };
    let usage = v2::usage(&Folder::open(dir.path()).unwrap());
    assert_eq!(usage, expected);
    assert_eq!(processes::count(dir.path()), 2);
    let memory = usage.memory.unwrap();
    assert_eq!(memory.working_set_bytes(), 69_304_320);
    assert_eq!(memory.available_bytes(), Some(64_913_408));
}

#[test]
fn v2_details_are_read() {
    let details = v2::details(&Folder::open(recorded().path()).unwrap());
    let throttling = Throttling {
        periods: 61,
        throttled_periods: 58,
        throttled_ns: 4_630_112_000,
    };
    assert_eq!(details.throttling, throttling);
    assert_eq!(
        (details.cpu_user_ns, details.cpu_system_ns),
        (2_190_404_000, 555_417_000)
    );
    assert_eq!((details.cpu_quota_us, details.cpu_period_us), (Some(20_000), 100_000));
    assert_eq!(details.cpu_shares, 998);
    assert_eq!(
        (details.cache_bytes, details.mapped_bytes, details.kernel_bytes),
        (1_224_704, 978_944, 598_016)
    );
    assert_eq!(
        (details.most_used_bytes, details.limit_hits, details.oom_kills),
        (70_012_928, 3, 1)
    );
    assert_eq!(details.high_hits, 7);
    assert_eq!(
        (details.threads, details.threads_limit, details.swap_limit_bytes),
        (5, 0, 0)
    );
    let device = &details.devices[0];
    assert_eq!((device.major, device.minor), (253, 16));
    assert_eq!(
        (device.read_bytes, device.written_bytes, device.reads, device.writes),
        (978_944, 10_485_760, 25, 20)
    );
    let pages = HugePages {
        size: "2MB".into(),
        used_bytes: 2_097_152,
        most_used_bytes: None,
    };
    assert_eq!(details.huge_pages, [pages]);
}

#[test]
fn without_files_there_is_no_usage() {
    let dir = tempfile::tempdir().unwrap();
    let usage = v2::usage(&Folder::open(dir.path()).unwrap());
    assert_eq!(usage, Usage::default());
    assert_eq!(processes::count(dir.path()), 0);
    // A root of v2 without the memory controller tells of the CPU alone.
    fs::write(dir.path().join("cpu.stat"), CPU_STAT).unwrap();
    let usage = v2::usage(&Folder::open(dir.path()).unwrap());
    assert_eq!(usage.cpu.map(|cpu| cpu.total_ns), Some(2_745_821_000));
    assert_eq!(usage.memory, None);
}

#[test]
fn kernels_before_5_18_tell_the_parts_of_kernel_memory() {
    let dir = tempfile::tempdir().unwrap();
    let older = MEMORY_STAT.replace("kernel 598016\n", "");
    fs::write(dir.path().join("memory.stat"), older).unwrap();
    assert_eq!(
        v2::details(&Folder::open(dir.path()).unwrap()).kernel_bytes,
        32_768 + 229_376 + 1080 + 259_968
    );
}

#[test]
fn v1_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("cpuacct.usage", "2745821000\n"),
        ("cpu.cfs_quota_us", "-1\n"),
        ("cpu.cfs_period_us", "100000\n"),
        ("cpu.stat", "nr_periods 4\nnr_throttled 2\nthrottled_time 1500\n"),
        ("memory.usage_in_bytes", "1000000\n"),
        ("memory.limit_in_bytes", "2000000\n"),
        ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
        ("memory.soft_limit_in_bytes", "9223372036854771712\n"),
        (
            "memory.stat",
            "cache 1\nrss 2\ntotal_cache 10\ntotal_rss 600000\ntotal_inactive_file 250000\ntotal_pgfault 7\n\
             total_pgmajfault 1\ntotal_swap 300000\nhierarchical_memory_limit 2000000\n\
             hierarchical_memsw_limit 9223372036854771712\n",
        ),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        (
            "blkio.throttle.io_service_bytes_recursive",
            "253:0 Read 4096\n253:0 Write 8192\n253:0 Total 12288\nTotal 12288\n",
        ),
        (
            "blkio.throttle.io_serviced_recursive",
            "253:0 Read 1\n253:0 Write 2\n253:0 Total 3\nTotal 3\n",
        ),
        ("pids.max", "64\n"),
        ("cgroup.procs", "4711\n"),
    ];
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    let folder_of = |_: &str| Folder::open(dir.path());
    let usage = v1::usage(&folder_of);
    assert_eq!(usage.cpu.unwrap().total_ns, 2_745_821_000);
    let memory = usage.memory.unwrap();
    assert_eq!((memory.working_set_bytes(), memory.rss_bytes), (750_000, 600_000));
    assert_eq!((memory.available_bytes(), memory.page_faults), (Some(1_250_000), 7));
    assert_eq!(
        usage.swap.unwrap(),
        SwapUsage {
            used_bytes: 300_000,
            limit_bytes: None
        }
    );
    assert_eq!(usage.io, None);
    let details = v1::details(&folder_of);
    assert_eq!((details.cpu_quota_us, details.cpu_period_us), (None, 100_000));
    assert_eq!(
        (details.reservation_bytes, details.oom_kills, details.threads_limit),
        (0, 2, 64)
    );
    let device = &details.devices[0];
    assert_eq!(
        (device.read_bytes, device.written_bytes, device.reads, device.writes),
        (4096, 8192, 1, 2)
    );
    assert_eq!(details.devices.len(), 1);
}
