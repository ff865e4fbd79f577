//! Peak memory of this process.

/// The most memory that was resident at once, in bytes. `None` where the system does not say in `/proc`.
pub fn peak_bytes() -> Option<u64> {
    parse(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_high_water_mark() {
        assert_eq!(parse("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t  1 kB\n"), Some(2 << 20));
        for text in ["", "VmHWM:", "VmHWM: x kB", "VmHWM: 18446744073709551615 kB"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
