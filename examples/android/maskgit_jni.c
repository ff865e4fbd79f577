/* Kotlin's Maskgit class to maskgit.h. Untried on a device. */
#include <maskgit.h>

#include <android/bitmap.h>
#include <android/log.h>
#include <jni.h>
#include <stdlib.h>
#include <string.h>

/* What one Kotlin object holds. */
typedef struct {
    maskgit_generator *generator;
    maskgit_cancel *cancel;
    uint8_t *bytes;
} model;

static void on_log(uint32_t level, const char *message, void *user_data) {
    (void)user_data;
    __android_log_write(level == MASKGIT_LOG_ERROR ? ANDROID_LOG_ERROR : ANDROID_LOG_INFO, "maskgit", message);
}

/* Throws the error as a MaskgitException, and frees it. */
static void throw_error(JNIEnv *env, maskgit_error *error) {
    jclass type = (*env)->FindClass(env, "org/maskgit/MaskgitException");
    if (type != NULL) (*env)->ThrowNew(env, type, maskgit_error_message(error));
    maskgit_error_free(error);
}

/* There is no error object when there is no memory. */
static jlong throw_no_memory(JNIEnv *env) {
    jclass type = (*env)->FindClass(env, "java/lang/OutOfMemoryError");
    if (type != NULL) (*env)->ThrowNew(env, type, "the model");
    return 0;
}

static void close_model(model *held) {
    maskgit_generator_free(held->generator);
    maskgit_cancel_free(held->cancel);
    free(held->bytes);
    free(held);
}

JNIEXPORT jlong JNICALL Java_org_maskgit_Maskgit_open(JNIEnv *env, jclass type, jbyteArray packed, jint threads) {
    (void)type;
    jsize length = (*env)->GetArrayLength(env, packed);
    model *held = calloc(1, sizeof *held);
    if (held == NULL) return throw_no_memory(env);
    held->bytes = malloc((size_t)length > 0 ? (size_t)length : 1);
    if (held->bytes == NULL) {
        free(held);
        return throw_no_memory(env);
    }
    (*env)->GetByteArrayRegion(env, packed, 0, length, (jbyte *)held->bytes);

    maskgit_open_options options;
    maskgit_open_options_init(&options, sizeof options);
    options.threads = (uint32_t)threads;
    options.log = on_log;
    options.borrow_bytes = 1;
    maskgit_error *error = NULL;
    maskgit_code code = maskgit_cancel_new(&held->cancel, &error);
    if (code == MASKGIT_OK) code = maskgit_open_bytes(held->bytes, (size_t)length, &options, &held->generator, &error);
    if (code != MASKGIT_OK) {
        close_model(held);
        throw_error(env, error);
        return 0;
    }
    return (jlong)(intptr_t)held;
}

JNIEXPORT jintArray JNICALL Java_org_maskgit_Maskgit_size(JNIEnv *env, jclass type, jlong handle) {
    (void)type;
    model *held = (model *)(intptr_t)handle;
    maskgit_info info;
    maskgit_error *error = NULL;
    if (maskgit_get_info(held->generator, &info, sizeof info, &error) != MASKGIT_OK) {
        throw_error(env, error);
        return NULL;
    }
    jint size[2] = {(jint)info.width, (jint)info.height};
    jintArray array = (*env)->NewIntArray(env, 2);
    if (array != NULL) (*env)->SetIntArrayRegion(env, array, 0, 2, size);
    return array;
}

/* Draws into an ARGB_8888 bitmap of the model's size. */
JNIEXPORT void JNICALL Java_org_maskgit_Maskgit_draw(JNIEnv *env, jclass type, jlong handle, jstring class_name,
                                                     jlong seed, jobject bitmap) {
    (void)type;
    model *held = (model *)(intptr_t)handle;
    const char *name = (*env)->GetStringUTFChars(env, class_name, NULL);
    if (name == NULL) return;
    maskgit_options options;
    maskgit_options_init(&options, sizeof options);
    options.class_name = name;
    options.seed = (uint64_t)seed;
    options.cancel = held->cancel;
    maskgit_cancel_reset(held->cancel);

    maskgit_error *error = NULL;
    maskgit_images *images = NULL;
    maskgit_code code = maskgit_generate(held->generator, &options, &images, &error);
    (*env)->ReleaseStringUTFChars(env, class_name, name);

    AndroidBitmapInfo info;
    void *pixels = NULL;
    if (code == MASKGIT_OK && AndroidBitmap_getInfo(env, bitmap, &info) == 0 &&
        info.format == ANDROID_BITMAP_FORMAT_RGBA_8888 && AndroidBitmap_lockPixels(env, bitmap, &pixels) == 0) {
        size_t length = (size_t)info.stride * info.height;
        code = maskgit_images_copy(images, 0, pixels, length, info.stride, MASKGIT_FORMAT_RGBA8, &error);
        AndroidBitmap_unlockPixels(env, bitmap);
    }
    maskgit_images_free(images);
    if (code != MASKGIT_OK) throw_error(env, error);
}

/* From any thread. */
JNIEXPORT void JNICALL Java_org_maskgit_Maskgit_cancel(JNIEnv *env, jclass type, jlong handle) {
    (void)env, (void)type;
    maskgit_cancel_stop(((model *)(intptr_t)handle)->cancel);
}

JNIEXPORT void JNICALL Java_org_maskgit_Maskgit_close(JNIEnv *env, jclass type, jlong handle) {
    (void)env, (void)type;
    close_model((model *)(intptr_t)handle);
}
