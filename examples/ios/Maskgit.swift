// A model on iOS. Untried on a device.
import CMaskgit
import CoreGraphics
import Foundation

/// What went wrong: a code, `MASKGIT_ERROR_*`, and one line of text.
public struct MaskgitError: Error, CustomStringConvertible {
    public let code: UInt32
    public let description: String
}

/// Runs a call of the C library, whose error becomes a `MaskgitError`.
private func call(_ body: (UnsafeMutablePointer<OpaquePointer?>) -> maskgit_code) throws {
    var error: OpaquePointer?
    let code = body(&error)
    guard code != UInt32(MASKGIT_OK) else { return }
    defer { maskgit_error_free(error) }
    throw MaskgitError(code: code, description: String(cString: maskgit_error_message(error)))
}

/// Draws with one model. `draw` takes a while: call it outside the main thread. Calls of one model wait for one
/// another.
public final class Maskgit {
    private var generator: OpaquePointer?
    private var cancel: OpaquePointer?

    public init(path: String, threads: UInt32 = 0) throws {
        var options = maskgit_open_options()
        maskgit_open_options_init(&options, MemoryLayout<maskgit_open_options>.size)
        options.threads = threads
        try call { maskgit_cancel_new(&cancel, $0) }
        do {
            try call { maskgit_open(path, &options, &generator, $0) }
        } catch {
            maskgit_cancel_free(cancel)
            cancel = nil
            throw error
        }
    }

    deinit {
        maskgit_generator_free(generator)
        maskgit_cancel_free(cancel)
    }

    /// Stops a running `draw`; from any thread.
    public func stop() {
        maskgit_cancel_stop(cancel)
    }

    /// Draws an image of a class.
    public func draw(className: String, seed: UInt64) throws -> CGImage {
        maskgit_cancel_reset(cancel)
        var images: OpaquePointer?
        try className.withCString { name in
            var options = maskgit_options()
            maskgit_options_init(&options, MemoryLayout<maskgit_options>.size)
            options.class_name = name
            options.seed = seed
            options.cancel = cancel
            try call { maskgit_generate(generator, &options, &images, $0) }
        }
        defer { maskgit_images_free(images) }

        var shown = maskgit_image()
        try call { maskgit_images_get(images, 0, &shown, MemoryLayout<maskgit_image>.size, $0) }
        let (width, height) = (Int(shown.pixels.width), Int(shown.pixels.height))
        var rgba = Data(count: width * height * 4)
        try rgba.withUnsafeMutableBytes { buffer in
            let bytes = buffer.bindMemory(to: UInt8.self)
            try call {
                maskgit_images_copy(images, 0, bytes.baseAddress, bytes.count, 0, UInt32(MASKGIT_FORMAT_RGBA8), $0)
            }
        }
        guard let provider = CGDataProvider(data: rgba as CFData),
              let image = CGImage(
                  width: width, height: height, bitsPerComponent: 8, bitsPerPixel: 32, bytesPerRow: width * 4,
                  space: CGColorSpaceCreateDeviceRGB(),
                  bitmapInfo: CGBitmapInfo(rawValue: CGImageAlphaInfo.last.rawValue), provider: provider,
                  decode: nil, shouldInterpolate: false, intent: .defaultIntent)
        else {
            throw MaskgitError(code: UInt32(MASKGIT_ERROR_INTERNAL), description: "cannot make an image of the pixels")
        }
        return image
    }
}
