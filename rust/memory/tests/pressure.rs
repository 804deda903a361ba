//! Memory pressure, read from trees as the kernel makes them, and from this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nif_memory::pressure::{Level, Pressure};

const MIB: u64 = 1 << 20;
const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const LEGACY: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";

/// A folder with /proc and /sys in it, removed with the value.
struct Tree(PathBuf);

impl Tree {
    /// A machine with 1 GiB, of which 768 MiB are available.
    fn new(name: &str, membership: &str, mounts: &str) -> Self {
        let it = Self(std::env::temp_dir().join(format!("nif_lab-{name}-{}", std::process::id())));
        it.write("proc/self/cgroup", membership);
        it.write("proc/self/mountinfo", mounts);
        it.write("proc/meminfo", "MemTotal:        1048576 kB\nMemFree:  1 kB\nMemAvailable:     786432 kB\n");
        it.write_stalls("proc/pressure/memory", 0.5, 0.0);
        it
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn write_stalls(&self, path: &str, some: f64, full: f64) {
        let line = |kind, avg10| format!("{kind} avg10={avg10:.2} avg60=0.00 avg300=0.00 total=1\n");
        self.write(path, &(line("some", some) + &line("full", full)));
    }

    fn write_group(&self, folder: &str, max: &str, current: u64, inactive_file: u64) {
        self.write(&format!("{folder}/memory.max"), &format!("{max}\n"));
        self.write(&format!("{folder}/memory.current"), &format!("{current}\n"));
        self.write(&format!("{folder}/memory.stat"), &format!("anon 1\nfile 2\ninactive_file {inactive_file}\n"));
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn the_fullest_group_decides() {
    let tree = Tree::new("v2", "0::/user/lab\n", UNIFIED);
    tree.write_group("sys/fs/cgroup/user/lab", "max", 100 * MIB, 0);
    tree.write_group("sys/fs/cgroup/user", &(200 * MIB).to_string(), 180 * MIB, 30 * MIB);
    tree.write_stalls("sys/fs/cgroup/user/lab/memory.pressure", 2.0, 1.0);
    let mut pressure = Pressure::with_root(&tree.0);

    let sample = pressure.sample().unwrap();
    assert_eq!((sample.source, sample.level), ("cgroup v2", Level::Normal));
    assert_eq!((sample.used, sample.limit, sample.available), (150 * MIB, 200 * MIB, 50 * MIB));
    assert_eq!((sample.psi_some_avg10, sample.psi_full_avg10), (Some(2.0), Some(1.0)));

    // A limit that is set, lowered or lifted while we run.
    tree.write_group("sys/fs/cgroup/user/lab", &(101 * MIB).to_string(), 100 * MIB, 0);
    let sample = pressure.sample().unwrap();
    assert_eq!((sample.level, sample.limit, sample.available), (Level::Critical, 101 * MIB, MIB));

    // Used less, but not by enough; then by enough.
    tree.write_group("sys/fs/cgroup/user/lab", &(100 * MIB).to_string(), 92 * MIB, 0);
    assert_eq!(pressure.sample().unwrap().level, Level::Critical);
    tree.write_group("sys/fs/cgroup/user/lab", &(100 * MIB).to_string(), 92 * MIB, 10 * MIB);
    assert_eq!(pressure.sample().unwrap().level, Level::High);
    tree.write_group("sys/fs/cgroup/user/lab", "max", 92 * MIB, 0);
    assert_eq!(pressure.sample().unwrap().level, Level::High, "the outer group is still at 75 %");
    tree.write_group("sys/fs/cgroup/user", &(200 * MIB).to_string(), 140 * MIB, 0);
    assert_eq!(pressure.sample().unwrap().level, Level::Normal);

    // Tasks that wait count, however much is free.
    tree.write_stalls("sys/fs/cgroup/user/lab/memory.pressure", 30.0, 20.0);
    assert_eq!(pressure.sample().unwrap().level, Level::Critical);
}

#[test]
fn a_full_machine_counts_inside_a_group_with_room() {
    let tree = Tree::new("full", "0::/lab\n", UNIFIED);
    tree.write_group("sys/fs/cgroup/lab", &(100 * MIB).to_string(), 50 * MIB, 0);
    tree.write("proc/meminfo", "MemTotal: 1048576 kB\nMemAvailable: 51200 kB\n");
    let sample = Pressure::with_root(&tree.0).sample().unwrap();
    assert_eq!((sample.source, sample.level, sample.available), ("machine", Level::Critical, 50 * MIB));
}

#[test]
fn available_is_what_the_first_limit_leaves() {
    let tree = Tree::new("first", "0::/lab\n", UNIFIED);
    tree.write_group("sys/fs/cgroup/lab", &(100 * MIB).to_string(), 20 * MIB, 0);
    let sample = Pressure::with_root(&tree.0).sample().unwrap();
    assert_eq!((sample.source, sample.used), ("machine", 256 * MIB));
    assert_eq!(sample.available, 80 * MIB);
}

#[test]
fn version_1_beside_version_2() {
    let mounts = LEGACY.to_owned() + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    let tree = Tree::new("v1", "4:memory:/lab\n1:cpu:/\n0::/\n", &mounts);
    let set = |folder: &str, limit: u64| {
        tree.write(&format!("{folder}/memory.limit_in_bytes"), &format!("{limit}\n"));
        tree.write(&format!("{folder}/memory.usage_in_bytes"), &format!("{}\n", 90 * MIB));
        let stat = format!("inactive_file 1\ntotal_inactive_file {}\n", 4 * MIB);
        tree.write(&format!("{folder}/memory.stat"), &stat);
    };
    // How version 1 writes "no limit".
    set("sys/fs/cgroup/memory", 9_223_372_036_854_771_712);
    set("sys/fs/cgroup/memory/lab", 100 * MIB);
    let sample = Pressure::with_root(&tree.0).sample().unwrap();
    assert_eq!((sample.source, sample.level), ("cgroup v1", Level::High));
    assert_eq!((sample.used, sample.limit), (86 * MIB, 100 * MIB));
    assert_eq!(sample.psi_some_avg10, Some(0.5), "the machine's, as the group has none");
}

#[test]
fn a_process_that_moves_is_followed() {
    let tree = Tree::new("moves", "0::/a\n", UNIFIED);
    tree.write_group("sys/fs/cgroup/a", &(100 * MIB).to_string(), 99 * MIB, 0);
    tree.write_group("sys/fs/cgroup/b", &(200 * MIB).to_string(), 100 * MIB, 0);
    let mut pressure = Pressure::with_root(&tree.0);
    assert_eq!(pressure.sample().unwrap().limit, 100 * MIB);
    tree.write("proc/self/cgroup", "0::/b\n");
    assert_eq!(pressure.sample().unwrap().limit, 200 * MIB);
}

#[test]
fn without_groups_and_psi_the_machine_is_left() {
    let tree = Tree::new("bare", "0::/lab\n", "");
    fs::remove_dir_all(tree.0.join("proc/pressure")).unwrap();
    let sample = Pressure::with_root(&tree.0).sample().unwrap();
    assert_eq!((sample.source, sample.level), ("machine", Level::Normal));
    assert_eq!((sample.used, sample.limit), (256 * MIB, 1024 * MIB));
    assert_eq!((sample.psi_some_avg10, sample.psi_full_avg10), (None, None));
}

#[test]
fn without_proc_it_says_so_and_goes_on_later() {
    let tree = Tree::new("late", "", "");
    let mut pressure = Pressure::with_root(&tree.0);
    let meminfo = fs::read_to_string(tree.0.join("proc/meminfo")).unwrap();
    tree.write("proc/meminfo", "nothing of use\n");
    assert!(pressure.sample().unwrap_err().to_string().contains("/proc/meminfo"));
    tree.write("proc/meminfo", &meminfo);
    assert_eq!(pressure.sample().unwrap().limit, 1024 * MIB);
    assert!(Pressure::with_root(Path::new("/nonexistent")).sample().is_err());
}

#[test]
fn this_machine_is_read_within_50_us() {
    let mut pressure = Pressure::new();
    let sample = pressure.sample().unwrap();
    assert!(sample.limit > 0 && sample.available <= sample.limit, "{sample:?}");
    let time = |_| {
        let start = Instant::now();
        pressure.sample().unwrap();
        start.elapsed()
    };
    // The least of many: the machine may be busy with something else.
    let least = (0..1000).map(time).min().unwrap();
    println!("{least:?} a sample; {sample:?}");
    assert!(least < Duration::from_micros(50), "{least:?}");
}
