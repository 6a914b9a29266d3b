//! Which system calls a run may make.
//!
//! An engine can be started with another default profile, or with none, and does not say so to whoever asks for its
//! default. So the profile is said in full. It allows what Docker's default profile allows a container without
//! capabilities, so that what runs with `docker run` at home runs here; and of sockets only the families that a
//! machine with nothing but `lo` has a use for.

use serde_json::{Value, json};

/// Files and folders.
const FILES: &str = "\
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat \
    faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat \
    fcntl fcntl64 fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 \
    futimesat getcwd getdents getdents64 ioctl lchown lchown32 link linkat _llseek lseek lstat lstat64 \
    mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 readahead readlink \
    readlinkat rename renameat renameat2 rmdir sendfile sendfile64 splice stat stat64 statfs statfs64 \
    statx symlink symlinkat sync sync_file_range sync_file_range2 arm_sync_file_range arm_fadvise64_64 \
    syncfs tee truncate truncate64 umask unlink unlinkat ustat utime utimensat utimensat_time64 utimes \
    vmsplice";

/// Extended attributes.
const ATTRIBUTES: &str = "\
    fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat \
    llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat";

/// Reading, writing and waiting for either.
const TRANSFER: &str = "\
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait \
    eventfd eventfd2 inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel \
    io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect pipe pipe2 \
    poll ppoll ppoll_time64 pread64 preadv preadv2 pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read \
    readv select write writev";

/// Memory.
const MEMORY: &str = "\
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 \
    mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free \
    pkey_mprotect process_mrelease remap_file_pages";

/// Processes and threads. `clone`, `clone3` and `personality` have rules of their own.
const PROCESSES: &str = "\
    arch_prctl breakpoint cacheflush capget capset execve execveat exit exit_group fork futex \
    futex_requeue futex_time64 futex_wait futex_waitv futex_wake get_robust_list get_thread_area getcpu \
    getpgid getpgrp getpid getppid getpriority getrlimit getrusage getsid gettid ioprio_get ioprio_set \
    kill landlock_add_rule landlock_create_ruleset landlock_restrict_self modify_ldt pidfd_open \
    pidfd_send_signal prctl prlimit64 rseq sched_get_priority_max sched_get_priority_min sched_getaffinity \
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 \
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp set_robust_list \
    set_thread_area set_tid_address set_tls setpgid setpriority setrlimit setsid sysinfo times ugetrlimit \
    uname uretprobe vfork wait4 waitid waitpid";

/// Who a process is. Without capabilities it can only stay who it is.
const IDENTITY: &str = "\
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid getresgid32 \
    getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 \
    setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid \
    setreuid32 setuid setuid32";

/// Signals.
const SIGNALS: &str = "\
    alarm pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signal signalfd \
    signalfd4 sigpending sigprocmask sigreturn sigsuspend tgkill tkill";

/// Clocks and timers. Setting a clock takes a capability, which a run has not.
const TIME: &str = "\
    adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
    clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create \
    timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 \
    timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64";

/// Between the processes of a run. `socket` has a rule of its own; `socketcall`, the old call of 32-bit programs, is
/// not here, since what it opens cannot be looked at.
const CONVERSATION: &str = "\
    accept accept4 bind connect getpeername getsockname getsockopt ipc listen mq_getsetattr mq_notify \
    mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl \
    msgget msgrcv msgsnd recv recvfrom recvmmsg recvmmsg_time64 recvmsg semctl semget semop semtimedop \
    semtimedop_time64 send sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown \
    socketpair";

/// Chance.
const CHANCE: &str = "getrandom";

/// Looking into other processes of the same run. Before Linux 4.8 it was a way around the profile.
const TRACING: &str = "process_vm_readv process_vm_writev ptrace";

/// Unix, IPv4, IPv6 and netlink, by which programs list their interfaces. What else the kernel knows (its own
/// cryptography, virtual machines, radio) is code that a run need not reach.
const SOCKET_FAMILIES: [u64; 4] = [1, 2, 10, 16];

/// The flags of `clone` that make a namespace: of mounts, control groups, hosts, messages, users, processes and
/// networks.
const NAMESPACES: u64 = 0x7e02_0000;

/// Linux, 32-bit Linux, and both of them with short inodes or asking which it is: what programs ask for when they
/// ask for their execution domain.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const EPERM: u32 = 1;
/// Tells the C library to use `clone`, whose flags can be looked at, instead of `clone3`.
const ENOSYS: u32 = 38;

/// The profile as the engine takes it (`docker run --security-opt seccomp=`).
pub(super) fn profile() -> Value {
    let groups =
        [FILES, ATTRIBUTES, TRANSFER, MEMORY, PROCESSES, IDENTITY, SIGNALS, TIME, CONVERSATION, CHANCE];
    let freely: Vec<&str> = groups.iter().flat_map(|group| group.split_whitespace()).collect();
    let tracing: Vec<&str> = TRACING.split_whitespace().collect();
    let equal = |name: &str, value: &u64| {
        allow(&[name], &json!([{"index": 0, "value": value, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]))
    };
    let mut rules = vec![
        allow(&freely, &json!([])),
        allow(
            &["clone"],
            &json!([{"index": 0, "value": NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]),
        ),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS, "args": []}),
        json!({"names": tracing, "action": "SCMP_ACT_ALLOW", "args": [], "includes": {"minKernel": "4.8"}}),
    ];
    rules.extend(SOCKET_FAMILIES.iter().map(|family| equal("socket", family)));
    rules.extend(PERSONALITIES.iter().map(|personality| equal("personality", personality)));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
        "syscalls": rules,
    })
}

fn allow(names: &[&str], arguments: &Value) -> Value {
    json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": arguments})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(rule: &Value) -> impl Iterator<Item = &str> {
        rule["names"].as_array().into_iter().flatten().filter_map(Value::as_str)
    }

    #[test]
    fn what_is_not_named_is_refused_and_nothing_is_named_twice() {
        let profile = profile();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let rules = profile["syscalls"].as_array().expect("rules");
        let free: Vec<&str> = rules.iter().filter(|rule| rule["args"] == json!([])).flat_map(names).collect();
        assert_eq!(free.iter().collect::<BTreeSet<_>>().len(), free.len());
        let of_the_kernel = "\
            add_key bpf clone delete_module fanotify_init finit_module fsopen init_module io_uring_setup \
            kexec_load keyctl mount move_mount open_by_handle_at open_tree perf_event_open personality \
            pivot_root quotactl reboot request_key setns socket socketcall swapon umount2 unshare \
            userfaultfd";
        for name in of_the_kernel.split_whitespace() {
            assert!(!free.contains(&name), "{name}");
        }
    }

    #[test]
    fn it_is_the_profile_that_was_reviewed() {
        let text = serde_json::to_string_pretty(&profile()).expect("JSON");
        crate::plan::samples::reviewed("seccomp", &text);
    }
}
