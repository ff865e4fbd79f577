// A model on Android. Untried on a device.
package org.maskgit

import android.content.res.AssetManager
import android.graphics.Bitmap

class MaskgitException(message: String) : RuntimeException(message)

/**
 * Draws with one model. [draw] takes a while: call it outside the main thread. [close] waits for nothing: call it when
 * no [draw] runs.
 */
class Maskgit(assets: AssetManager, packedModel: String, threads: Int = 0) : AutoCloseable {
    private var handle: Long = open(assets.open(packedModel).use { it.readBytes() }, threads)

    /** Draws an image of a class. Throws [MaskgitException], also when [cancel] was called. */
    fun draw(className: String, seed: Long): Bitmap {
        val (width, height) = size(handle)
        val bitmap = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888)
        draw(handle, className, seed, bitmap)
        return bitmap
    }

    /** Stops a running [draw]; from any thread. */
    fun cancel() = cancel(handle)

    override fun close() {
        if (handle != 0L) close(handle)
        handle = 0L
    }

    private companion object {
        init {
            System.loadLibrary("maskgit_jni")
        }

        @JvmStatic external fun open(packed: ByteArray, threads: Int): Long
        @JvmStatic external fun size(handle: Long): IntArray
        @JvmStatic external fun draw(handle: Long, className: String, seed: Long, bitmap: Bitmap)
        @JvmStatic external fun cancel(handle: Long)
        @JvmStatic external fun close(handle: Long)
    }
}
