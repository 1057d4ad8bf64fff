//! What a test makes the kernel answer to a system call. The tests of this folder and those in `tests`
//! have this file in common, so that nothing here is of the crate.

#![allow(unreachable_pub, reason = "a module of many crates")]

use std::io::Error;
use std::mem::offset_of;

/// From here on `call` answers `errno` where all the arguments are these, in this thread and those that
/// it starts; 0 is success. A filter of system calls (seccomp(2)).
pub fn answer(call: libc::c_long, arguments: &[(u8, libc::c_int)], errno: libc::c_int) {
    let one = |code: u32, jf: usize, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: jf as u8,
        k,
    };
    // The lower half of an argument, which little-endian processors have first.
    let argument = |&(index, value): &(u8, libc::c_int)| {
        let offset = offset_of!(libc::seccomp_data, args) + 8 * usize::from(index);
        (offset, value as u32)
    };
    let mut checks = vec![(offset_of!(libc::seccomp_data, nr), call as u32)];
    checks.extend(arguments.iter().map(argument));
    let mut program = Vec::new();
    for (at, &(offset, value)) in checks.iter().enumerate() {
        let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        program.push(one(load, 0, offset as u32));
        // Another value: on to the last instruction.
        let rest = 2 * (checks.len() - at) - 1;
        program.push(one(libc::BPF_JMP | libc::BPF_JEQ, rest, value));
    }
    for action in [
        libc::SECCOMP_RET_ERRNO | errno as u32,
        libc::SECCOMP_RET_ALLOW,
    ] {
        program.push(one(libc::BPF_RET, 0, action));
    }
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: no pointer is given.
    let alone = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(alone, 0, "prctl: {}", Error::last_os_error());
    // SAFETY: the program is valid for the call, which copies it.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    assert_eq!(set, 0, "prctl: {}", Error::last_os_error());
}
