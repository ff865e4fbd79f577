//! What C hands over, checked before it is used.

use std::ffi::c_char;
use std::path::PathBuf;
use std::ptr;

use super::error::{
    Fault, MASKGIT_ERROR_MISALIGNED, MASKGIT_ERROR_NULL, MASKGIT_ERROR_SHORT_BUFFER, MASKGIT_ERROR_STRUCT,
    MASKGIT_ERROR_TEXT,
};
use super::handle::{self, Object};

/// The longest text that is read, a path among them.
const MAX_TEXT: usize = 64 << 10;
/// No version of a struct is larger.
const MAX_STRUCT: usize = 4096;

/// A struct that may grow.
///
/// # Safety
///
/// It is `repr(C)`, its first field is its `size: usize`, it has no reference and no type that not every pattern of
/// bits is a value of.
pub(super) unsafe trait Versioned: Copy {
    /// The name in C.
    const NAME: &'static str;
    /// Its size in the first version with this number of the interface.
    const FIRST_SIZE: usize;
    /// What its init function sets.
    fn initial() -> Self;
    /// What must be 0, as a later version may give it a meaning.
    fn reserved(&self) -> &[u32] {
        &[]
    }
}

/// Refuses NULL and pointers that are not aligned.
pub(super) fn check<T>(pointer: *const T, name: &str) -> Result<(), Fault> {
    if pointer.is_null() {
        return Err(Fault::new(MASKGIT_ERROR_NULL, format!("{name} is NULL")));
    }
    if !pointer.is_aligned() {
        return Err(Fault::new(
            MASKGIT_ERROR_MISALIGNED,
            format!("{name} is not aligned to {} bytes", std::mem::align_of::<T>()),
        ));
    }
    Ok(())
}

/// Writes a result.
///
/// # Safety
///
/// `pointer` is NULL, not aligned, or may be written.
pub(super) unsafe fn put<T>(pointer: *mut T, value: T, name: &str) -> Result<(), Fault> {
    check(pointer, name)?;
    // SAFETY: not NULL and aligned; else by the caller's promise.
    unsafe { pointer.write(value) };
    Ok(())
}

/// Hands an object to C. The result is NULL until `work` has made it, and stays so when it fails.
///
/// # Safety
///
/// `pointer` is NULL, not aligned, or may be written.
pub(super) unsafe fn give<T: Object>(
    pointer: *mut *mut T,
    name: &str,
    work: impl FnOnce() -> Result<T, Fault>,
) -> Result<(), Fault> {
    // SAFETY: the same promise.
    unsafe {
        put(pointer, ptr::null_mut(), name)?;
        put(pointer, handle::give(work()?), name)
    }
}

/// `count` values that the caller lends; none need not have an address.
///
/// # Safety
///
/// `pointer` is NULL, not aligned, or has `count` values, which nobody changes while the slice lives.
pub(super) unsafe fn slice<'a, T>(pointer: *const T, count: usize, name: &str) -> Result<&'a [T], Fault> {
    if count == 0 {
        return Ok(&[]);
    }
    check(pointer, name)?;
    check_length::<T>(count, name)?;
    // SAFETY: not NULL, aligned, of a possible size; else by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// As [`slice`], to be written.
///
/// # Safety
///
/// As [`slice`], and nobody else reads it meanwhile.
pub(super) unsafe fn slice_mut<'a, T>(pointer: *mut T, count: usize, name: &str) -> Result<&'a mut [T], Fault> {
    if count == 0 {
        return Ok(&mut []);
    }
    check(pointer, name)?;
    check_length::<T>(count, name)?;
    // SAFETY: not NULL, aligned, of a possible size; else by the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, count) })
}

fn check_length<T>(count: usize, name: &str) -> Result<(), Fault> {
    match count.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(Fault::new(
            MASKGIT_ERROR_SHORT_BUFFER,
            format!("{name} cannot have {count} values: no memory is as large"),
        )),
    }
}

/// A text that ends with a NUL.
///
/// # Safety
///
/// `pointer` is NULL or a text that ends with a NUL.
pub(super) unsafe fn text(pointer: *const c_char, name: &str) -> Result<String, Fault> {
    // SAFETY: the same promise.
    let bytes = unsafe { text_bytes(pointer, name) }?;
    String::from_utf8(bytes).map_err(|_| Fault::new(MASKGIT_ERROR_TEXT, format!("{name} is not valid UTF-8")))
}

/// A text, or `None` for NULL.
///
/// # Safety
///
/// As [`text`].
pub(super) unsafe fn optional_text(pointer: *const c_char, name: &str) -> Result<Option<String>, Fault> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the same promise.
    unsafe { text(pointer, name) }.map(Some)
}

/// A path: bytes as the system takes them, UTF-8 where it does not.
///
/// # Safety
///
/// As [`text`].
pub(super) unsafe fn path(pointer: *const c_char, name: &str) -> Result<PathBuf, Fault> {
    #[cfg(unix)]
    {
        // SAFETY: the same promise.
        let bytes = unsafe { text_bytes(pointer, name) }?;
        Ok(std::os::unix::ffi::OsStringExt::from_vec(bytes)).map(|path: std::ffi::OsString| path.into())
    }
    #[cfg(not(unix))]
    // SAFETY: the same promise.
    unsafe { text(pointer, name) }.map(PathBuf::from)
}

unsafe fn text_bytes(pointer: *const c_char, name: &str) -> Result<Vec<u8>, Fault> {
    check(pointer, name)?;
    let mut bytes = Vec::new();
    while bytes.len() < MAX_TEXT {
        // SAFETY: no NUL came before, so by the caller's promise the text goes on at least to here.
        let byte = unsafe { pointer.add(bytes.len()).cast::<u8>().read() };
        if byte == 0 {
            return Ok(bytes);
        }
        bytes.push(byte);
    }
    Err(Fault::new(MASKGIT_ERROR_TEXT, format!("{name} is longer than {MAX_TEXT} bytes, or does not end with a NUL")))
}

/// Reads a struct of the caller's version: fields that it does not have are as its init function sets them.
///
/// # Safety
///
/// `pointer` is NULL, not aligned, or has `size` readable bytes, `size` being its first field.
pub(super) unsafe fn read<T: Versioned>(pointer: *const T) -> Result<T, Fault> {
    check(pointer, T::NAME)?;
    // SAFETY: aligned and not NULL; `Versioned` says that it starts with its size.
    let size = unsafe { pointer.cast::<usize>().read() };
    check_size::<T>(size)?;
    let mut value = T::initial();
    // SAFETY: both have so many bytes; `Versioned` says that any bits are a value.
    unsafe {
        ptr::copy_nonoverlapping(pointer.cast::<u8>(), (&raw mut value).cast::<u8>(), size.min(size_of::<T>()));
    }
    for at in size_of::<T>()..size {
        // SAFETY: within the `size` bytes that the caller promises.
        if unsafe { pointer.cast::<u8>().add(at).read() } != 0 {
            return Err(Fault::new(
                MASKGIT_ERROR_STRUCT,
                format!("the {} sets a field that this version of the library does not know", T::NAME),
            ));
        }
    }
    check_reserved(value.reserved(), T::NAME)?;
    Ok(value)
}

/// As [`read`]; NULL stands for the initial values.
///
/// # Safety
///
/// As [`read`].
pub(super) unsafe fn read_or_initial<T: Versioned>(pointer: *const T) -> Result<T, Fault> {
    if pointer.is_null() {
        return Ok(T::initial());
    }
    // SAFETY: the same promise.
    unsafe { read(pointer) }
}

/// Refuses what reserved fields hold.
pub(super) fn check_reserved(reserved: &[u32], name: &str) -> Result<(), Fault> {
    match reserved.iter().find(|&&value| value != 0) {
        None => Ok(()),
        Some(value) => Err(Fault::new(
            MASKGIT_ERROR_STRUCT,
            format!(
                "{name}: a reserved field is {value}; it must be 0, as setting all of the struct to 0 first makes it"
            ),
        )),
    }
}

/// Writes a struct for a caller whose version of it has `size` bytes. The caller's `size` field says `size`.
///
/// # Safety
///
/// `pointer` is NULL, not aligned, or has `size` writable bytes.
pub(super) unsafe fn write<T: Versioned>(pointer: *mut T, size: usize, value: T) -> Result<(), Fault> {
    check(pointer, T::NAME)?;
    check_size::<T>(size)?;
    // SAFETY: both have so many bytes; what the library does not know is zero. The size comes first by `Versioned`.
    unsafe {
        ptr::write_bytes(pointer.cast::<u8>(), 0, size);
        ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), pointer.cast::<u8>(), size.min(size_of::<T>()));
        pointer.cast::<usize>().write(size);
    }
    Ok(())
}

fn check_size<T: Versioned>(size: usize) -> Result<(), Fault> {
    if (T::FIRST_SIZE..=MAX_STRUCT).contains(&size) {
        return Ok(());
    }
    Err(Fault::new(
        MASKGIT_ERROR_STRUCT,
        format!("the size of the {} is {size}; it must be sizeof({}), as its init function sets it", T::NAME, T::NAME),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Grown {
        size: usize,
        first: u64,
        later: u64,
    }

    // SAFETY: `repr(C)`, the size first, integers only.
    unsafe impl Versioned for Grown {
        const NAME: &'static str = "grown";
        const FIRST_SIZE: usize = 16;
        fn initial() -> Self {
            Self { size: size_of::<Self>(), first: 1, later: 2 }
        }
    }

    #[test]
    fn older_and_newer_structs_are_read() {
        let code = |result: Result<Grown, Fault>| result.err().map(|e| e.code);
        let mut bytes = [16usize, 7, 8, 0];
        let pointer = bytes.as_ptr().cast::<Grown>();
        // SAFETY: here and below, `bytes` has the 32 bytes that are read at most.
        assert_eq!(unsafe { read(pointer) }.ok(), Some(Grown { size: 16, first: 7, later: 2 }));
        bytes[0] = 24;
        // SAFETY: as above.
        assert_eq!(unsafe { read(bytes.as_ptr().cast::<Grown>()) }.ok(), Some(Grown { size: 24, first: 7, later: 8 }));
        bytes[0] = 32;
        // SAFETY: as above.
        assert_eq!(unsafe { read(bytes.as_ptr().cast::<Grown>()) }.ok(), Some(Grown { size: 32, first: 7, later: 8 }));
        bytes[3] = 1;
        // SAFETY: as above.
        assert_eq!(code(unsafe { read(bytes.as_ptr().cast::<Grown>()) }), Some(MASKGIT_ERROR_STRUCT));
        for wrong in [0, 15, MAX_STRUCT + 1, usize::MAX] {
            bytes[0] = wrong;
            // SAFETY: refused before more than the size is read.
            assert_eq!(code(unsafe { read(bytes.as_ptr().cast::<Grown>()) }), Some(MASKGIT_ERROR_STRUCT), "{wrong}");
        }
    }

    #[test]
    fn a_struct_is_written_no_further_than_the_caller_has_it() {
        for (size, expected) in [(16, [16, 1, 9, 9, 9]), (24, [24, 1, 2, 9, 9]), (32, [32, 1, 2, 0, 9])] {
            let mut bytes = [9usize; 5];
            // SAFETY: `bytes` has 40 bytes.
            assert!(unsafe { write(bytes.as_mut_ptr().cast(), size, Grown::initial()) }.is_ok());
            assert_eq!(bytes, expected, "{size}");
        }
    }

    #[test]
    fn impossible_buffers_are_refused() {
        let code = |result: Result<&[u64], Fault>| result.err().map(|e| e.code);
        let value = [0u64; 2];
        // SAFETY: every wrong pointer and length is refused before it is used.
        unsafe {
            assert_eq!(slice(value.as_ptr(), 2, "x").ok(), Some(&value[..]));
            assert!(slice(ptr::null::<u64>(), 0, "x").is_ok());
            assert_eq!(code(slice(ptr::null(), 1, "x")), Some(MASKGIT_ERROR_NULL));
            assert_eq!(code(slice(value.as_ptr().byte_add(4), 1, "x")), Some(MASKGIT_ERROR_MISALIGNED));
            assert_eq!(code(slice(value.as_ptr(), usize::MAX / 4, "x")), Some(MASKGIT_ERROR_SHORT_BUFFER));
            assert_eq!(text(c"\xff".as_ptr(), "x").err().map(|e| e.code), Some(MASKGIT_ERROR_TEXT));
        }
    }
}
