//! What a worker process may do: compute, and talk on the one socket that it has.
//!
//! No capability and no namespace is needed for this, so it holds in any container and under any unit.
//! The order is: limits and the bond to the gateway; then, while the plugin's file is mapped (which runs
//! its initialisers), no network, no processes, no files but the system's libraries, which the linker may
//! need, to read; then, before the provider is made, no file at all and no new code. Whatever is not allowed
//! fails with "operation not permitted" or "permission denied".

use std::collections::BTreeMap;

use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, path_beneath_rules};
use rustix::process::{Resource, Rlimit, Signal};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Is, SeccompCondition as Condition,
    SeccompFilter, SeccompRule as Rule,
};

/// Most memory that a worker may address: several of the largest requests and answers at once.
const MAX_MEMORY_BYTES: u64 = 4 << 30;

/// Most descriptors: the standard streams, the socket, the plugin's memory files.
const MAX_DESCRIPTORS: u64 = 32;

/// Where the linker looks for libraries: whoever knows these knows no secret.
const LIBRARIES: [&str; 5] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache"];

/// Why a worker cannot be confined.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The system refused a call.
    #[error("{0}")]
    System(#[from] rustix::io::Errno),
    /// A signal cannot be held off.
    #[error("{0}")]
    Signal(#[from] std::io::Error),
    /// A filter cannot be made.
    #[error("{0}")]
    Filter(#[from] seccompiler::BackendError),
    /// Files cannot be ruled out.
    #[error("{0}")]
    Files(#[from] landlock::RulesetError),
    /// A filter is not accepted.
    #[error("{0}; the kernel must have seccomp filters")]
    Seccomp(#[from] seccompiler::Error),
}

/// What holds from the start on: limits, no privileges, and an end with the gateway's.
pub(super) fn prepare() -> Result<(), Error> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    // Fails where a unit forbids the call; such a unit has left none to give up.
    let _ = rustix::thread::set_capabilities(
        None,
        rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        },
    );
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, MAX_DESCRIPTORS)?;
    limit(Resource::As, MAX_MEMORY_BYTES)?;
    hold_off_signals()?;
    Ok(())
}

fn limit(resource: Resource, most: u64) -> Result<(), rustix::io::Errno> {
    let now = rustix::process::getrlimit(resource).maximum;
    let most = Some(now.map_or(most, |now| now.min(most)));
    rustix::process::setrlimit(resource, Rlimit { current: most, maximum: most })
}

/// A service manager tells every process of a unit to stop; this one goes when the gateway has finished
/// its open requests.
fn hold_off_signals() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // What was registered once stays for the life of the process, with or without its runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _inside = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        drop(signal(kind)?);
    }
    Ok(())
}

/// While the plugin's file is mapped.
pub(super) fn enter_loading() -> Result<(), Error> {
    // A filter of calls cannot see paths. Memory files, of which the plugin is one, have none and stay open to
    // it. Kernels before 5.13, which have no such rules, let an initialiser read what the gateway's user may.
    let files = AccessFs::from_all(ABI::V1);
    let libraries = path_beneath_rules(LIBRARIES, AccessFs::from_read(ABI::V1));
    Ruleset::default().handle_access(files)?.create()?.add_rules(libraries)?.restrict_self()?;
    let mut rules = both()?;
    let read_only = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND) as u64;
    rules.insert(libc::SYS_openat, vec![rule(vec![masked(2, read_only, 0)?])?]);
    for call in [
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_memfd_create,
        libc::SYS_fcntl,
        libc::SYS_pread64,
        libc::SYS_newfstatat,
        // The next filter and the last limits are set by these.
        libc::SYS_seccomp,
    ] {
        rules.insert(call, Vec::new());
    }
    rules.insert(libc::SYS_prlimit64, vec![rule(vec![equal(0, 0)?])?]);
    let no_new_privs = rule(vec![equal(0, libc::PR_SET_NO_NEW_PRIVS as u64)?])?;
    rules.entry(libc::SYS_prctl).or_default().push(no_new_privs);
    apply(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)?;
    // glibc falls back to `clone`, whose flags can be seen by a filter.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    apply(clone3, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

/// Before the provider is made.
pub(super) fn enter_running() -> Result<(), Error> {
    // The plugin's memory files were written by now.
    limit(Resource::Fsize, 0)?;
    let mut rules = both()?;
    let executable = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(vec![masked(2, executable, 0)?])?]);
    }
    let empty_path = libc::AT_EMPTY_PATH as u64;
    rules.insert(libc::SYS_newfstatat, vec![rule(vec![masked(3, empty_path, empty_path)?])?]);
    apply(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

type Rules = BTreeMap<i64, Vec<Rule>>;

/// What memory, threads, clocks and the socket need.
fn both() -> Result<Rules, Error> {
    let mut rules: Rules = [
        libc::SYS_brk,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_futex,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_getrandom,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_close,
        libc::SYS_fstat,
        libc::SYS_lseek,
        // Refused with another error, see above.
        libc::SYS_clone3,
    ]
    .into_iter()
    .map(|call| (call, Vec::new()))
    .collect();
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![rule(vec![masked(0, thread, thread)?])?]);
    // `abort` sends its signal this way; nobody else's thread can be meant.
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule(vec![equal(0, own)?])?]);
    rules.insert(libc::SYS_prctl, vec![rule(vec![equal(0, libc::PR_SET_NAME as u64)?])?]);
    Ok(rules)
}

fn rule(conditions: Vec<Condition>) -> Result<Rule, seccompiler::BackendError> {
    Rule::new(conditions)
}

fn equal(argument: u8, value: u64) -> Result<Condition, seccompiler::BackendError> {
    Condition::new(argument, Len::Dword, Is::Eq, value)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<Condition, seccompiler::BackendError> {
    Condition::new(argument, Len::Qword, Is::MaskedEq(mask), value)
}

fn apply(rules: Rules, otherwise: SeccompAction, matching: SeccompAction) -> Result<(), Error> {
    let filter = SeccompFilter::new(rules, otherwise, matching, std::env::consts::ARCH.try_into()?)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}
