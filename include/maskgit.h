/* maskgit: draws images with MaskGIT-family models on the device itself. docs/c-abi.md explains this interface.
 *
 * Written by `make header` from src/capi; do not change it by hand.
 *
 * Results. A function that can fail returns a code, MASKGIT_OK or MASKGIT_ERROR_*, and takes a last argument `error`.
 * It may be NULL. Otherwise *error becomes NULL on success, and on failure an object with the same code and a message,
 * which the caller frees with maskgit_error_free(). What *error held before is not freed.
 *
 * Structs. Those with a first field `size` may grow at their end. Set them with their init function, with sizeof the
 * struct as the size; a program that was compiled with an older header then works with a newer library. The others,
 * maskgit_pixels and maskgit_rect, have reserved fields instead: set all of them to 0 first. A reserved field that is
 * not 0 is an error.
 *
 * Arguments. NULL where it is not allowed, pointers that are not aligned, buffers too short for what they are said to
 * hold, and handles that were freed or are of another type are errors. That a buffer really has its length, and a text
 * its NUL, cannot be checked. Texts are UTF-8; paths are as the system takes them.
 *
 * Threads. Every function may be called from any thread. Calls of one generator that draw, edit, encode or decode run
 * one after another: a second thread waits. Calls of different generators run at the same time and share nothing.
 * maskgit_cancel_stop() and maskgit_cancel_reset() never wait, nor do maskgit_get_info(), maskgit_label_name() and
 * maskgit_find_label(). A handle may be freed while a call uses it: the call ends first. A pointer into an object (a
 * text, pixels, tokens) is valid until that object is freed, so do not free it while another thread looks.
 *
 * Callbacks run on the thread that called the library. They must return: no exceptions, no longjmp. A progress, preview
 * or image callback may not call drawing functions of the generator that is calling it (MASKGIT_ERROR_BUSY); it may use
 * cancel handles and other generators.
 *
 * The library keeps threads of its own, so do not unload it (dlclose), and do not use it in the child of a fork.
 */

#ifndef MASKGIT_H
#define MASKGIT_H

#include <stddef.h>
#include <stdint.h>

// The number of this interface, and of the library's soname. It changes only when programs must be compiled anew.
// Additions do not change it: functions, codes, meanings of what is reserved, fields at the end of a struct that
// carries its size. maskgit_version() tells which a library has.
#define MASKGIT_ABI_VERSION 2

// Opening or a call of the generator failed; its error says the same.
#define MASKGIT_LOG_ERROR 1

// What a developer may want to know once: the model, the kernels, how long opening took.
#define MASKGIT_LOG_INFO 2

// What each call did.
#define MASKGIT_LOG_DEBUG 3

// All graphs stay in memory: the fastest.
#define MASKGIT_MEMORY_KEEP_ALL 0

// The transformer is dropped while the decoder runs, and loaded again by the next call.
#define MASKGIT_MEMORY_DROP_TRANSFORMER 1

// One graph at a time: a graph is dropped before another one is loaded.
#define MASKGIT_MEMORY_ONE_AT_A_TIME 2

// The transformer has run once more.
#define MASKGIT_PROGRESS_PREDICTED 1

// A step is over.
#define MASKGIT_PROGRESS_STEP 2

// An image is finished.
#define MASKGIT_PROGRESS_FINISHED 3

// A window of the image to edit is encoded.
#define MASKGIT_PROGRESS_ENCODED 4

// The label that stands for no class.
#define MASKGIT_NO_CLASS -1

// Stops the calls that have it in their options. Any thread may use it at any time; one handle may serve several
// calls.
typedef struct maskgit_cancel maskgit_cancel;

// Why a call failed: a code and a message. Free it with maskgit_error_free().
typedef struct maskgit_error maskgit_error;

// A loaded model. Free it with maskgit_generator_free().
typedef struct maskgit_generator maskgit_generator;

// One or more images. They never change, so any number of threads may read them at once. Free them with
// maskgit_images_free().
typedef struct maskgit_images maskgit_images;

// What became of a call: MASKGIT_OK or one of MASKGIT_ERROR_*. The numbers never change their meaning; later versions
// may add some.
typedef uint32_t maskgit_code;

// The layout of a pixel: MASKGIT_FORMAT_*.
typedef uint32_t maskgit_format;

// An image in memory, row by row from the top. The library only reads it. Set all of it to 0 first.
typedef struct maskgit_pixels {
    // The first byte of the first row.
    const uint8_t *data;
    // The bytes from `data` on that may be read: at least stride * (height - 1) + width * bytes of a pixel.
    size_t length;
    // Columns, 1 to 16384.
    uint32_t width;
    // Rows, 1 to 16384.
    uint32_t height;
    // Bytes from one row to the next; 0 means that rows follow one another without a gap.
    size_t stride;
    // The layout of a pixel.
    maskgit_format format;
    // 0, for later versions.
    uint32_t reserved[5];
} maskgit_pixels;

// A look at one image. Its pointers are valid until the maskgit_images is freed; in a callback, during the call.
typedef struct maskgit_image {
    // sizeof(maskgit_image)
    size_t size;
    // The pixels, RGB8 without gaps.
    struct maskgit_pixels pixels;
    // The image's seed; 0 when there is none.
    uint64_t seed;
    // The tokens in raster order; of an edit, those of each window in turn. NULL when there are none.
    const int64_t *tokens;
    // How many they are.
    size_t token_count;
    // The image's place in the request, or among the images.
    size_t index;
    // The opacity, which an edit has of its source: a byte for each pixel, without gaps. NULL: all is opaque.
    const uint8_t *opacity;
    // Of an edit: how well the model knows the image that was edited. The mean absolute difference, 0 to 255, between
    // the image and what the model makes of the parts that it keeps; small is good. Below 0 where there is none.
    float fit;
    // 0, for later versions.
    uint32_t reserved;
} maskgit_image;

// A message of the library: its level, MASKGIT_LOG_*, and one line of UTF-8, valid during the call. Called on the
// thread that called the library.
typedef void (*maskgit_log_callback)(uint32_t level, const char *message, void *user_data);

// How to open a model. Set it with maskgit_open_options_init(), then change what you like.
typedef struct maskgit_open_options {
    // sizeof(maskgit_open_options)
    size_t size;
    // Where messages go; NULL: nowhere. The library writes nothing to stdout.
    maskgit_log_callback log;
    // Handed to `log`.
    void *log_user_data;
    // The device: "cpu"; "cuda" or "cuda:N", an NVIDIA GPU; "auto", the first GPU where it can run the model, else the
    // CPU, and `log` hears why. NULL: "cpu". A library without GPUs has the CPU only.
    const char *device;
    // Stops the opening from another thread, and later loads of its graphs, with MASKGIT_ERROR_CANCELLED; NULL: nothing
    // does.
    const struct maskgit_cancel *cancel;
    // The most bytes to hold logits in; 0: 64 MiB. One image always fits. Does not change the images.
    uint64_t logits_bytes;
    // Threads that compute, 1 to 1024; 0: as many as cores. Does not change the images.
    uint32_t threads;
    // MASKGIT_MEMORY_*. Does not change the images.
    uint32_t memory;
    // maskgit_open_bytes() only. 0: the bytes are copied. 1: they are used where they are, and the caller keeps them
    // unchanged until the generator is freed and no call of it runs.
    uint32_t borrow_bytes;
    // The longest time in seconds that loading one graph may take; 0: 300. Longer is MASKGIT_ERROR_ENGINE.
    uint32_t load_seconds;
    // 0, for later versions.
    uint32_t reserved[2];
} maskgit_open_options;

// How far a call is. Later versions may add fields at the end.
typedef struct maskgit_progress {
    // The bytes that this version of the library sets.
    size_t size;
    // Transformer runs so far, in the whole call.
    size_t done;
    // Transformer runs of the whole call.
    size_t total;
    // What happened: MASKGIT_PROGRESS_*.
    uint32_t event;
    // Steps that are over, of the images being drawn.
    uint32_t step;
    // Steps of the schedule.
    uint32_t steps;
    // Finished images.
    uint32_t images;
    // Images that were asked for.
    uint32_t image_count;
    // Windows of the image to edit that are encoded, in the whole call.
    uint32_t windows;
    // Windows that the whole call encodes; 0 until the first is.
    uint32_t window_count;
    // 0, for later versions.
    uint32_t reserved;
} maskgit_progress;

// Hears how far a call is. Returns 0 to go on; anything else ends the call with MASKGIT_ERROR_CANCELLED. It must not
// throw or jump out.
typedef int32_t (*maskgit_progress_callback)(const struct maskgit_progress *progress, void *user_data);

// One image as it looks after a step; unknown tokens show the model's present guess. Later versions may add fields at
// the end.
typedef struct maskgit_preview {
    // The bytes that this version of the library sets.
    size_t size;
    // The image, RGB8: of an edit the whole, at its own resolution. Valid during the call.
    struct maskgit_pixels pixels;
    // The image's seed.
    uint64_t seed;
    // The image's place in the request.
    uint32_t index;
    // The step that is over, from 0.
    uint32_t step;
    // Steps of the schedule.
    uint32_t steps;
    // The stage of an edit that is being drawn, from 0: the windows that do not read each other; 0 otherwise.
    uint32_t stage;
    // The number of stages; 1 otherwise.
    uint32_t stages;
    // 0, for later versions.
    uint32_t reserved;
} maskgit_preview;

// Gets each image after each step, which costs a run of the decoder for each window. Returns as
// maskgit_progress_callback does.
typedef int32_t (*maskgit_preview_callback)(const struct maskgit_preview *preview, void *user_data);

// Gets each image as soon as it is finished, in the order of the seeds. It is valid during the call of the callback.
// Returns as maskgit_progress_callback does.
typedef int32_t (*maskgit_image_callback)(const struct maskgit_image *image, void *user_data);

// What to draw and how. Set it with maskgit_options_init(), then change what you like.
typedef struct maskgit_options {
    // sizeof(maskgit_options)
    size_t size;
    // The class by its name, an unambiguous beginning of it, its number or its second name; NULL: `label` says it.
    const char *class_name;
    // The class by its number, when `class_name` is NULL. MASKGIT_NO_CLASS, the initial value, is none: a model with a
    // null label can draw without, and maskgit_vary() with strength 0 needs none.
    int64_t label;
    // The seed of the first image; image i has seed + i. Initially 0.
    uint64_t seed;
    // How many images, 1 to 10000. Initially 1.
    uint32_t count;
    // Steps of the schedule, 1 to 4096; 0, the initial value: as the model recommends.
    uint32_t steps;
    // The first step that is run, less than `steps`; 0, the initial value: as the model recommends. Google's editing
    // has 2 of 12.
    uint32_t start_iter;
    // Whether guidance grows linearly over the steps, 0 or 1; below 0, the initial value: as the model recommends.
    int32_t guidance_ramp;
    // The mask schedule: linear, square, cubic, sqrt, power:X, cosine, log, exp or arccos; NULL: as the model
    // recommends.
    const char *schedule;
    // The sampler: confidence, confidence-remask, predictor-corrector, halton or halton-redraw; NULL: as the model
    // recommends. Another one than that brings the schedule it was published with, unless `schedule` is given.
    const char *sampler;
    // The Gumbel noise on the confidence; below 0, the initial value: as the model recommends.
    float choice_temperature;
    // Divides the logits before a token is drawn; below 0, the initial value: as the model recommends. It is that of
    // all steps, unless there is a `final_temperature`.
    float temperature;
    // The scale of classifier-free guidance, 0 for none; below 0, the initial value: as the model recommends.
    float guidance;
    // maskgit_edit(): how much larger a window is than the part of the mask that it repaints, 1 or more. Initially 2.
    float context;
    // Draws from this many of the likeliest tokens; 0: from all; below 0, the initial value: as the model recommends.
    int64_t top_k;
    // Edits: rings of tokens that are drawn around those that the mask touches. Initially 1.
    uint32_t dilation;
    // Edits: the pixels over which the edge fades, 0 to 4096. -1, the initial value: as many as the mask is thick, 2
    // to 8; of an outpainting as -2. -2: a Gaussian as in Google's code.
    int32_t feather;
    // Hears of progress; may be NULL.
    maskgit_progress_callback progress;
    // Gets previews; may be NULL.
    maskgit_preview_callback preview;
    // Handed to all three callbacks.
    void *user_data;
    // Stops the call from another thread; may be NULL.
    const struct maskgit_cancel *cancel;
    // The temperature of the last step, to which it changes linearly over the steps. Below 0, the initial value: as
    // the model recommends, or, where `temperature` is given, that one.
    float final_temperature;
    // 0, for later versions.
    uint32_t reserved;
    // Any sampling settings by their names in bundle.json, as a JSON object such as {"corrector_share": 0.5}. A name
    // that is none is an error. Of a setting that a field above gives too, the field holds. NULL: none.
    const char *sampling;
    // Gets each image as soon as it is finished, so that any number takes the memory of a few. The call then gives no
    // images: its `images` may be NULL, else *images becomes NULL. NULL: the call gives all images at its end, at most
    // 2 GiB.
    maskgit_image_callback image;
} maskgit_options;

// How far to extend an image. Set it with maskgit_outpaint_options_init(), then set at least one side.
typedef struct maskgit_outpaint_options {
    // sizeof(maskgit_outpaint_options)
    size_t size;
    // Pixels to add on the left.
    uint32_t left;
    // Pixels to add on the right.
    uint32_t right;
    // Pixels to add above.
    uint32_t top;
    // Pixels to add below.
    uint32_t bottom;
    // The shorter side of a window in pixels of the image; 0, the initial value: as follows from the image.
    uint32_t window;
    // The part of a window that shows what is there already, 0.1 to 0.9. Initially 0.5.
    float overlap;
} maskgit_outpaint_options;

// What a model says about itself. Its texts are valid until the generator is freed.
typedef struct maskgit_info {
    // sizeof(maskgit_info)
    size_t size;
    // The model's name.
    const char *name;
    // Its licence.
    const char *licence;
    // Where it comes from; may be empty.
    const char *source;
    // The precision of its weights: fp32, fp16 or int8.
    const char *precision;
    // What runs it: the instruction set of the CPU's kernels, or, where a GPU does, its name as the options have it,
    // "cuda:0".
    const char *kernels;
    // Columns of an image.
    uint32_t width;
    // Rows of an image.
    uint32_t height;
    // Rows of the token grid.
    uint32_t grid_rows;
    // Columns of the token grid.
    uint32_t grid_columns;
    // The number of codes; a finished image's tokens are below it.
    uint32_t codes;
    // The number of classes.
    uint32_t label_count;
    // Steps of the recommended schedule.
    uint32_t steps;
    // 1 when the model can read images, which edits need.
    uint32_t has_encoder;
    // 1 when it can draw without a class, and be guided.
    uint32_t has_null_label;
    // 0, for later versions.
    uint32_t reserved;
    // The token that stands for "not known yet".
    int64_t mask_id;
    // Seconds that opening took.
    double load_seconds;
} maskgit_info;

// A rectangle of pixels. Set all of it to 0 first.
typedef struct maskgit_rect {
    // Left column.
    uint32_t x;
    // Top row.
    uint32_t y;
    // Columns.
    uint32_t width;
    // Rows.
    uint32_t height;
    // 0, for later versions.
    uint32_t reserved[4];
} maskgit_rect;

// It worked.
#define MASKGIT_OK 0

// A file or a folder could not be read or written.
#define MASKGIT_ERROR_IO 1

// The model bundle is not valid.
#define MASKGIT_ERROR_BUNDLE 2

// The engine could not load or run a graph, or a graph gave impossible numbers.
#define MASKGIT_ERROR_ENGINE 3

// The caller asked for something impossible: an unknown class, a wrong size, an option out of range.
#define MASKGIT_ERROR_REQUEST 4

// An image could not be read or written.
#define MASKGIT_ERROR_IMAGE 5

// The caller stopped the work, by a callback or a cancel handle.
#define MASKGIT_ERROR_CANCELLED 6

// A fault of this library. Please report it.
#define MASKGIT_ERROR_INTERNAL 7

// A pointer that must not be NULL is NULL.
#define MASKGIT_ERROR_NULL 8

// A pointer is not aligned for its type.
#define MASKGIT_ERROR_MISALIGNED 9

// A buffer is shorter than what is to be read from it or written to it.
#define MASKGIT_ERROR_SHORT_BUFFER 10

// A handle was freed already, is of another type, or never was one.
#define MASKGIT_ERROR_HANDLE 11

// The `size` of a struct is wrong: it was not set by its init function. Or a field is set that is reserved or that
// this version does not know.
#define MASKGIT_ERROR_STRUCT 12

// A callback called a function of the generator that is calling it.
#define MASKGIT_ERROR_BUSY 13

// A text is not valid UTF-8, or too long.
#define MASKGIT_ERROR_TEXT 14

// There is not enough memory.
#define MASKGIT_ERROR_MEMORY 15

// Three bytes: red, green, blue, in sRGB.
#define MASKGIT_FORMAT_RGB8 1

// Four bytes: red, green, blue, opacity; not premultiplied.
#define MASKGIT_FORMAT_RGBA8 2

// One byte. Masks only: 128 and above is repainted.
#define MASKGIT_FORMAT_GRAY8 3

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The MASKGIT_ABI_VERSION of the library that the program runs with.
uint32_t maskgit_abi_version(void);

// The library's version as text, such as "0.2.0". Never freed.
const char *maskgit_version(void);

// The code of an error; MASKGIT_ERROR_HANDLE when `error` is not one.
maskgit_code maskgit_error_code(const struct maskgit_error *error);

// The message of an error: one line of UTF-8 that says what, where and what to do. Valid until the error is freed. A
// fixed text when `error` is not one; never NULL.
const char *maskgit_error_message(const struct maskgit_error *error);

// Frees an error. NULL is ignored.
//
// Returns MASKGIT_OK, or MASKGIT_ERROR_HANDLE when it was freed already.
maskgit_code maskgit_error_free(struct maskgit_error *error);

// The name of a code in lower case, such as "short buffer"; "unknown" for a number that is none. Never freed.
const char *maskgit_code_name(maskgit_code code);

// Makes a cancel handle. Free it with maskgit_cancel_free().
maskgit_code maskgit_cancel_new(struct maskgit_cancel **cancel, struct maskgit_error **error);

// Stops every call that has this handle in its options, now and until maskgit_cancel_reset(). A running call ends with
// MASKGIT_ERROR_CANCELLED after the present run of a graph, which takes a fraction of a step.
//
// May be called from any thread and from callbacks; not from a signal handler.
maskgit_code maskgit_cancel_stop(struct maskgit_cancel *cancel);

// Lets calls with this handle run again.
maskgit_code maskgit_cancel_reset(struct maskgit_cancel *cancel);

// Frees a cancel handle, also while a call uses it: the call then goes on without. NULL is ignored.
maskgit_code maskgit_cancel_free(struct maskgit_cancel *cancel);

// The number of images; 0 when `images` is NULL or was freed.
size_t maskgit_images_count(const struct maskgit_images *images);

// Looks at an image without copying it. `size` is sizeof(maskgit_image).
maskgit_code maskgit_images_get(const struct maskgit_images *images,
                                size_t index,
                                struct maskgit_image *image,
                                size_t size,
                                struct maskgit_error **error);

// Copies an image into a buffer of the caller: `length` bytes at `data`, rows `stride` bytes apart (0: without gaps),
// RGB8 or RGBA8. Opacity is the source's, or 255. Bytes between rows are left alone.
maskgit_code maskgit_images_copy(const struct maskgit_images *images,
                                 size_t index,
                                 uint8_t *data,
                                 size_t length,
                                 size_t stride,
                                 maskgit_format format,
                                 struct maskgit_error **error);

// Writes an image as PNG, with the opacity of its source. The file appears whole or not at all, and replaces what is
// there.
maskgit_code maskgit_images_save_png(const struct maskgit_images *images,
                                     size_t index,
                                     const char *path,
                                     struct maskgit_error **error);

// Reads an image file (PNG, JPEG, WebP, GIF, BMP or PNM), upright, of at most 16384 pixels a side, 512 MiB in the file
// and as much decoded.
maskgit_code maskgit_read_image(const char *path, struct maskgit_images **images, struct maskgit_error **error);

// Frees images. NULL is ignored. Returns MASKGIT_OK, or MASKGIT_ERROR_HANDLE when they were freed already.
maskgit_code maskgit_images_free(struct maskgit_images *images);

// Sets the options to their initial values. `size` is sizeof(maskgit_open_options).
maskgit_code maskgit_open_options_init(struct maskgit_open_options *options, size_t size);

// Sets the options to their initial values. `size` is sizeof(maskgit_options).
maskgit_code maskgit_options_init(struct maskgit_options *options, size_t size);

// Sets the options to their initial values. `size` is sizeof(maskgit_outpaint_options).
maskgit_code maskgit_outpaint_options_init(struct maskgit_outpaint_options *options, size_t size);

// Opens a model: a folder that holds bundle.json, or one packed file. `options` may be NULL. On success *generator is
// to be freed with maskgit_generator_free(); on failure it is NULL.
maskgit_code maskgit_open(const char *path,
                          const struct maskgit_open_options *options,
                          struct maskgit_generator **generator,
                          struct maskgit_error **error);

// Opens a packed model that is in memory: `length` bytes, which are copied unless the options say borrow_bytes.
// Otherwise as maskgit_open().
maskgit_code maskgit_open_bytes(const uint8_t *bytes,
                                size_t length,
                                const struct maskgit_open_options *options,
                                struct maskgit_generator **generator,
                                struct maskgit_error **error);

// Frees a model. A call that runs on another thread ends first, and then its memory goes. NULL is ignored. Returns
// MASKGIT_OK, or MASKGIT_ERROR_HANDLE when it was freed already.
maskgit_code maskgit_generator_free(struct maskgit_generator *generator);

// What the model says about itself. `size` is sizeof(maskgit_info). Never waits.
maskgit_code maskgit_get_info(const struct maskgit_generator *generator,
                              struct maskgit_info *info,
                              size_t size,
                              struct maskgit_error **error);

// The name of a class, valid until the generator is freed; NULL when there is none of this number. Never waits.
const char *maskgit_label_name(const struct maskgit_generator *generator, size_t label);

// The number of a class from its name, its second name or its number as text. Never waits.
maskgit_code maskgit_find_label(const struct maskgit_generator *generator,
                                const char *class_name,
                                size_t *label,
                                struct maskgit_error **error);

// Draws images. `options` say of which class; dilation, feather and context play no part. On success *images is to be
// freed with maskgit_images_free(); on failure it is NULL.
maskgit_code maskgit_generate(struct maskgit_generator *generator,
                              const struct maskgit_options *options,
                              struct maskgit_images **images,
                              struct maskgit_error **error);

// Repaints a part of an image of any size: the white pixels of `mask`, a GRAY8 image of the same size, and
// `box_count` boxes. Either may be NULL, not both. Pixels farther from them than the feather keep their bytes, and
// opacity is kept. In this and the next three functions the colour of pixels of opacity 0 is unknown to the model.
maskgit_code maskgit_edit(struct maskgit_generator *generator,
                          const struct maskgit_pixels *image,
                          const struct maskgit_pixels *mask,
                          const struct maskgit_rect *boxes,
                          size_t box_count,
                          const struct maskgit_options *options,
                          struct maskgit_images **images,
                          struct maskgit_error **error);

// Extends an image on any sides. What is new is opaque.
maskgit_code maskgit_outpaint(struct maskgit_generator *generator,
                              const struct maskgit_pixels *image,
                              const struct maskgit_outpaint_options *outpaint,
                              const struct maskgit_options *options,
                              struct maskgit_images **images,
                              struct maskgit_error **error);

// Draws variations of a whole image: the part `strength` (0 to 1) of its tokens, chosen by the seed, is drawn anew.
maskgit_code maskgit_vary(struct maskgit_generator *generator,
                          const struct maskgit_pixels *image,
                          float strength,
                          const struct maskgit_options *options,
                          struct maskgit_images **images,
                          struct maskgit_error **error);

// Encodes an image of any size as one window and decodes it: what the model's tokens can hold of it. Gives its tokens
// too.
maskgit_code maskgit_reconstruct(struct maskgit_generator *generator,
                                 const struct maskgit_pixels *image,
                                 struct maskgit_images **images,
                                 struct maskgit_error **error);

// Encodes an image of exactly the model's size: writes its grid_rows * grid_columns tokens, in raster order, to
// `tokens`, which has room for `capacity`. *count, which may be NULL, becomes their number, also when the room is too
// small.
maskgit_code maskgit_encode(struct maskgit_generator *generator,
                            const struct maskgit_pixels *image,
                            int64_t *tokens,
                            size_t capacity,
                            size_t *count,
                            struct maskgit_error **error);

// Decodes `count` tokens, which must be grid_rows * grid_columns codes, to an image.
maskgit_code maskgit_decode(struct maskgit_generator *generator,
                            const int64_t *tokens,
                            size_t count,
                            struct maskgit_images **images,
                            struct maskgit_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MASKGIT_H */
