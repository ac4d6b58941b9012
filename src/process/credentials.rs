use super::capabilities::Capabilities;
use super::error::ProcessError;

/// The effective user id of this process.
pub(crate) fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether the calling thread has `CAP_NET_ADMIN` in its effective set.
///
/// It has it in its user namespace: over nf_tables it holds only in network namespaces that belong
/// to that one.
///
/// # Errors
/// The kernel does not tell.
pub(crate) fn has_cap_net_admin() -> Result<bool, ProcessError> {
    Ok(Capabilities::effective()?.has(Capabilities::NET_ADMIN))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn root_outside_a_container_has_it_and_nobody_has_not() {
        // Compared with what the kernel lets us do: a netlink socket of netfilter opens for
        // everyone, so look at the set as libcap would print it.
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
        let set = u64::from_str_radix(line, 16).unwrap();
        assert_eq!(has_cap_net_admin().unwrap(), set >> 12 & 1 == 1);
    }

    #[test]
    fn the_effective_uid_is_that_of_our_files() {
        use std::os::unix::fs::MetadataExt;
        let owner = fs::metadata("/proc/self/status").unwrap().uid();
        assert_eq!(effective_uid(), owner);
    }
}
