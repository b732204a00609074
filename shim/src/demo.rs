//! The program in the image of `inro demo`: counts aloud, ten lines a second; with the argument `hello` it greets and
//! ends. Freestanding, so that its image needs no other file.
#![no_std]
#![no_main]

mod start;

use rustix::{fd::BorrowedFd, io::write, thread::nanosleep, time::Timespec};

fn main(arguments: start::Arguments) -> i32 {
    if arguments.get(1) == Some(b"hello") {
        say(b"hello from inside\n");
        return 0;
    }
    let mut line = *b"line 0000\n";
    loop {
        say(&line);
        for digit in line[5..9].iter_mut().rev() {
            *digit += 1;
            if *digit <= b'9' {
                break;
            }
            *digit = b'0';
        }
        let _ = nanosleep(&Timespec {
            tv_sec: 0,
            tv_nsec: 100_000_000,
        });
    }
}

#[allow(unsafe_code)]
fn say(text: &[u8]) {
    // SAFETY: nothing here closes the standard streams that the program was started with.
    let stdout = unsafe { BorrowedFd::borrow_raw(1) };
    let _ = write(stdout, text);
}
