//! A terminal for a program under test: a pseudo terminal whose other side the test holds.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    process::Stdio,
    sync::{Arc, Mutex},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::server::eventually;

/// A terminal; what is typed is echoed to what is shown, as on any.
pub struct Terminal {
    side: File,
    path: String,
    shown: Arc<Mutex<String>>,
    /// Keeps the terminal open between programs.
    _open: File,
}

impl Terminal {
    /// Opens one.
    pub fn open() -> Self {
        let side = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
        grantpt(&side).expect("its rights");
        unlockpt(&side).expect("its lock");
        let path = ptsname(&side, Vec::new()).expect("its name").into_string().expect("a name in UTF-8");
        let open = OpenOptions::new().read(true).write(true).open(&path).expect("the terminal");
        let (side, shown) = (File::from(side), Arc::<Mutex<String>>::default());
        let (mut reader, seen) = (side.try_clone().expect("a second handle"), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                seen.lock().expect("the screen").push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { side, path, shown, _open: open }
    }

    /// For a program's standard input, output or error.
    pub fn stdio(&self) -> Stdio {
        OpenOptions::new().read(true).write(true).open(&self.path).expect("the terminal").into()
    }

    /// Types.
    pub fn types(&self, text: &str) {
        (&self.side).write_all(text.as_bytes()).expect("typing");
    }

    /// Waits until it shows this; gives all that it shows.
    #[track_caller]
    pub fn shows(&self, text: &str) -> String {
        eventually(&format!("{text:?} on the terminal"), || {
            let shown = self.shown.lock().expect("the screen").clone();
            shown.contains(text).then_some(shown)
        })
    }
}
