/* Callbacks, cancelling, wrong arguments, threads and memory. Arguments: the repository, and how many generations to
   measure. */
#include "check.h"

#include <malloc.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

static const char *repository;

static char *in_repository(const char *path) {
    static _Thread_local char buffer[4096];
    snprintf(buffer, sizeof buffer, "%s/%s", repository, path);
    return buffer;
}

static maskgit_generator *open_model(const char *path, const maskgit_open_options *options) {
    maskgit_generator *generator = NULL;
    OK(maskgit_open(in_repository(path), options, &generator, &error));
    if (generator == NULL) exit(1);
    return generator;
}

static maskgit_options drawing(uint64_t seed) {
    maskgit_options options;
    maskgit_options_init(&options, sizeof options);
    options.label = 0;
    options.seed = seed;
    return options;
}

/* A sum that tells images apart, of the image that the options draw. */
static uint64_t draw_with(maskgit_generator *generator, const maskgit_options *options) {
    maskgit_images *images = NULL;
    OK(maskgit_generate(generator, options, &images, &error));
    maskgit_image image = {0};
    OK(maskgit_images_get(images, 0, &image, sizeof image, &error));
    uint64_t sum = 1469598103934665603u;
    for (size_t i = 0; i < image.pixels.length; i++) sum = (sum ^ image.pixels.data[i]) * 1099511628211u;
    maskgit_images_free(images);
    return sum;
}

static uint64_t draw(maskgit_generator *generator, uint64_t seed) {
    maskgit_options options = drawing(seed);
    return draw_with(generator, &options);
}

struct heard {
    int events, steps, images, previews, stop_at;
    size_t done, total;
    maskgit_generator *call, *other;
    maskgit_code code;
    maskgit_cancel *cancel;
};

/* Counts the images that arrive, and stops at one. */
struct sink {
    uint64_t seeds[8];
    int count, stop_at;
};

static int32_t on_image(const maskgit_image *image, void *user_data) {
    struct sink *sink = user_data;
    CHECK(image->size == sizeof *image && image->index == (size_t)sink->count, "%d", sink->count);
    CHECK(image->pixels.width == 16 && image->pixels.length == 768 && image->token_count == 16, "an image");
    sink->seeds[sink->count++] = image->seed;
    return sink->count == sink->stop_at;
}

static void test_images_one_by_one(maskgit_generator *tiny) {
    struct sink sink = {{0}, 0, 0};
    maskgit_images *images = (maskgit_images *)&sink;
    maskgit_options options = drawing(5);
    options.count = 4;
    options.image = on_image;
    options.user_data = &sink;
    OK(maskgit_generate(tiny, &options, &images, &error));
    CHECK(sink.count == 4 && images == NULL, "%d images", sink.count);
    for (int i = 0; i < 4; i++) CHECK(sink.seeds[i] == sink.seeds[0] + (uint64_t)i, "seed %d", i);
    sink.count = 0;
    OK(maskgit_generate(tiny, &options, NULL, &error));
    CHECK(sink.count == 4, "%d images", sink.count);
    sink.count = 0;
    sink.stop_at = 2;
    CHECK_CODE(MASKGIT_ERROR_CANCELLED, maskgit_generate(tiny, &options, NULL, &error));
    CHECK(sink.count == 2, "%d images", sink.count);
}

static int32_t on_progress(const maskgit_progress *progress, void *user_data) {
    struct heard *heard = user_data;
    CHECK(progress->size == sizeof *progress, "%zu", progress->size);
    heard->events++;
    CHECK(progress->done >= heard->done && progress->done <= progress->total, "%zu", progress->done);
    heard->done = progress->done;
    heard->total = progress->total;
    if (progress->event == MASKGIT_PROGRESS_STEP) {
        heard->steps++;
        CHECK(progress->steps == 4 && progress->step >= 1 && progress->step <= 4, "%u of %u", progress->step,
              progress->steps);
    }
    if (progress->event == MASKGIT_PROGRESS_FINISHED) {
        heard->images++;
        CHECK(progress->image_count == 2, "%u", progress->image_count);
    }
    if (heard->call != NULL) {
        maskgit_images *images = NULL;
        heard->code = maskgit_reconstruct(heard->call, NULL, &images, NULL);
        maskgit_options options = drawing(1);
        heard->code = maskgit_generate(heard->call, &options, &images, NULL);
        CHECK(maskgit_label_name(heard->call, 0) != NULL, "asking what never waits");
        if (heard->other != NULL) draw(heard->other, 1);
    }
    if (heard->cancel != NULL && heard->steps == 2) maskgit_cancel_stop(heard->cancel);
    return heard->stop_at != 0 && heard->steps >= heard->stop_at;
}

static int32_t on_preview(const maskgit_preview *preview, void *user_data) {
    struct heard *heard = user_data;
    heard->previews++;
    CHECK(preview->size == sizeof *preview && preview->pixels.width == 16 && preview->pixels.length == 768, "preview");
    CHECK(preview->stages == 1 && preview->stage == 0 && preview->steps == 4, "%u stages", preview->stages);
    CHECK(preview->seed == 3u + preview->index && preview->pixels.data != NULL, "seed");
    return 0;
}

static void test_callbacks(maskgit_generator *tiny, maskgit_generator *other) {
    struct heard heard = {0};
    maskgit_options options = drawing(3);
    options.count = 2;
    options.progress = on_progress;
    options.preview = on_preview;
    options.user_data = &heard;
    maskgit_images *images = NULL;
    OK(maskgit_generate(tiny, &options, &images, &error));
    maskgit_images_free(images);
    CHECK(heard.steps == 4 && heard.images == 2 && heard.previews == 8, "%d steps", heard.steps);
    CHECK(heard.done == 8 && heard.total == 8, "%zu runs", heard.done);

    /* A callback stops the call half-way, and the generator goes on working. */
    heard = (struct heard){.stop_at = 2};
    CHECK_CODE(MASKGIT_ERROR_CANCELLED, maskgit_generate(tiny, &options, &images, &error));
    CHECK(images == NULL && heard.steps == 2 && heard.images == 0, "%d steps", heard.steps);

    /* A callback may not draw with its own generator; with another one it may. */
    heard = (struct heard){.call = tiny, .other = other};
    OK(maskgit_generate(tiny, &options, &images, &error));
    CHECK(heard.code == MASKGIT_ERROR_BUSY, "%s", maskgit_code_name(heard.code));
    maskgit_images_free(images);

    heard = (struct heard){0};
    OK(maskgit_cancel_new(&heard.cancel, &error));
    options.cancel = heard.cancel;
    CHECK_CODE(MASKGIT_ERROR_CANCELLED, maskgit_generate(tiny, &options, &images, &error));
    CHECK(heard.steps == 2 && heard.images == 0, "%d steps", heard.steps);
    heard.steps = heard.events = 0;
    CHECK_CODE(MASKGIT_ERROR_CANCELLED, maskgit_generate(tiny, &options, &images, &error));
    CHECK(heard.events == 0, "it stays cancelled until it is reset");
    CHECK(maskgit_cancel_reset(heard.cancel) == MASKGIT_OK, "reset");
    maskgit_cancel *cancel = heard.cancel;
    heard = (struct heard){0};
    OK(maskgit_generate(tiny, &options, &images, &error));
    maskgit_images_free(images);
    CHECK(maskgit_cancel_free(cancel) == MASKGIT_OK, "free");
    CHECK_CODE(MASKGIT_ERROR_HANDLE, maskgit_generate(tiny, &options, &images, &error));
}

struct race {
    maskgit_cancel *cancel;
    atomic_bool started;
};

static int32_t has_started(const maskgit_progress *progress, void *user_data) {
    (void)progress;
    atomic_store(&((struct race *)user_data)->started, true);
    return 0;
}

static void *stop_when_started(void *user_data) {
    struct race *race = user_data;
    while (!atomic_load(&race->started)) {}
    maskgit_cancel_stop(race->cancel);
    return NULL;
}

/* A call that would take minutes ends at once when another thread says so. */
static void test_cancel_from_a_thread(maskgit_generator *tiny) {
    struct race race;
    atomic_init(&race.started, false);
    OK(maskgit_cancel_new(&race.cancel, &error));
    maskgit_options options = drawing(0);
    options.count = 10000;
    options.steps = 4096;
    options.progress = has_started;
    options.user_data = &race;
    options.cancel = race.cancel;
    pthread_t thread;
    pthread_create(&thread, NULL, stop_when_started, &race);
    maskgit_images *images = NULL;
    CHECK_CODE(MASKGIT_ERROR_CANCELLED, maskgit_generate(tiny, &options, &images, &error));
    pthread_join(thread, NULL);
    maskgit_cancel_free(race.cancel);
}

static void test_wrong_arguments(maskgit_generator *tiny) {
    maskgit_images *images = NULL;
    maskgit_generator *none = NULL;
    maskgit_options options = drawing(0);
    char *odd = (char *)malloc(4096);
    memset(odd, 0, 4096);

    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_open(NULL, NULL, &none, &error));
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_open("x", NULL, NULL, &error));
    CHECK_CODE(MASKGIT_ERROR_IO, maskgit_open("/there/is/no/such/model", NULL, &none, &error));
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_open_bytes(NULL, 10, NULL, &none, &error));
    CHECK_CODE(MASKGIT_ERROR_BUNDLE, maskgit_open_bytes((const uint8_t *)"no bundle", 9, NULL, &none, &error));
    CHECK_CODE(MASKGIT_ERROR_BUNDLE, maskgit_open_bytes((const uint8_t *)"", 0, NULL, &none, &error));
    CHECK_CODE(MASKGIT_ERROR_SHORT_BUFFER, maskgit_open_bytes((const uint8_t *)"x", SIZE_MAX, NULL, &none, &error));
    CHECK(maskgit_open("/there/is/no/such/model", NULL, &none, NULL) == MASKGIT_ERROR_IO, "without an error object");
    CHECK(maskgit_open("x", NULL, &none, (maskgit_error **)(odd + 1)) == MASKGIT_ERROR_MISALIGNED, "misaligned");
    CHECK_CODE(MASKGIT_ERROR_MISALIGNED, maskgit_open("x", NULL, (maskgit_generator **)(odd + 1), &error));
    maskgit_open_options opening;
    maskgit_open_options_init(&opening, sizeof opening);
    opening.threads = 2000;
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_open(in_repository("tests/data/tiny"), &opening, &none, &error));
    opening.threads = 1;
    opening.memory = 9;
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_open(in_repository("tests/data/tiny"), &opening, &none, &error));
    opening.memory = MASKGIT_MEMORY_KEEP_ALL;
    opening.device = "gpu";
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_open(in_repository("tests/data/tiny"), &opening, &none, &error));
    /* No machine has so many. */
    opening.device = "cuda:999";
    CHECK_CODE(MASKGIT_ERROR_ENGINE, maskgit_open(in_repository("tests/data/tiny"), &opening, &none, &error));
    opening.device = "cpu";
    OK(maskgit_open(in_repository("tests/data/tiny"), &opening, &none, &error));
    maskgit_generator_free(none);
    none = NULL;
    /* Shorter than any version of the struct; a reserved field that is set. */
    opening.device = NULL;
    opening.size = offsetof(maskgit_open_options, reserved);
    CHECK_CODE(MASKGIT_ERROR_STRUCT, maskgit_open(in_repository("tests/data/tiny"), &opening, &none, &error));
    maskgit_open_options_init(&opening, sizeof opening);
    opening.reserved[1] = 1;
    CHECK_CODE(MASKGIT_ERROR_STRUCT, maskgit_open(in_repository("tests/data/tiny"), &opening, &none, &error));

    /* Opening can be stopped, and let go on. */
    maskgit_open_options_init(&opening, sizeof opening);
    maskgit_cancel *cancel = NULL;
    OK(maskgit_cancel_new(&cancel, &error));
    opening.cancel = cancel;
    opening.load_seconds = 60;
    maskgit_cancel_stop(cancel);
    CHECK_CODE(MASKGIT_ERROR_CANCELLED, maskgit_open(in_repository("tests/data/tiny"), &opening, &none, &error));
    maskgit_cancel_reset(cancel);
    OK(maskgit_open(in_repository("tests/data/tiny"), &opening, &none, &error));
    maskgit_generator_free(none);
    none = NULL;
    maskgit_cancel_free(cancel);

    /* Structs: not set, too short, and from a later version. */
    CHECK(maskgit_options_init(NULL, sizeof options) == MASKGIT_ERROR_NULL, "NULL");
    CHECK(maskgit_options_init(&options, 8) == MASKGIT_ERROR_STRUCT, "too short");
    CHECK(maskgit_options_init((maskgit_options *)(odd + 1), sizeof options) == MASKGIT_ERROR_MISALIGNED, "misaligned");
    memset(&options, 0, sizeof options);
    CHECK_CODE(MASKGIT_ERROR_STRUCT, maskgit_generate(tiny, &options, &images, &error));
    struct later {
        maskgit_options options;
        uint64_t more;
    } later;
    CHECK(maskgit_options_init(&later.options, sizeof later) == MASKGIT_OK && later.more == 0, "a later version");
    later.options.label = 1;
    OK(maskgit_generate(tiny, &later.options, &images, &error));
    maskgit_images_free(images);
    later.more = 1;
    CHECK_CODE(MASKGIT_ERROR_STRUCT, maskgit_generate(tiny, &later.options, &images, &error));

    /* Handles: NULL, of another type, never one, freed. */
    options = drawing(0);
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_generate(NULL, &options, &images, &error));
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_generate(tiny, &options, NULL, &error));
    CHECK_CODE(MASKGIT_ERROR_HANDLE, maskgit_generate((maskgit_generator *)odd, &options, &images, &error));
    CHECK_CODE(MASKGIT_ERROR_HANDLE, maskgit_generate((maskgit_generator *)(odd + 1), &options, &images, &error));
    OK(maskgit_generate(tiny, &options, &images, &error));
    maskgit_images *nothing = NULL;
    CHECK_CODE(MASKGIT_ERROR_HANDLE, maskgit_generate((maskgit_generator *)images, &options, &nothing, &error));
    CHECK(maskgit_generator_free((maskgit_generator *)images) == MASKGIT_ERROR_HANDLE, "another type");
    maskgit_image image = {0};
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_images_get(images, 1, &image, sizeof image, &error));
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_images_get(images, 0, NULL, sizeof image, &error));
    CHECK_CODE(MASKGIT_ERROR_STRUCT, maskgit_images_get(images, 0, &image, 3, &error));
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_images_copy(images, 0, NULL, 768, 0, MASKGIT_FORMAT_RGB8, &error));
    uint8_t *out = (uint8_t *)odd;
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_images_copy(images, 0, out, 4096, 47, MASKGIT_FORMAT_RGB8, &error));
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_images_copy(images, 0, out, 4096, 0, MASKGIT_FORMAT_GRAY8, &error));
    CHECK_CODE(MASKGIT_ERROR_IO, maskgit_images_save_png(images, 0, "/there/is/no/such/folder/x.png", &error));
    CHECK_CODE(MASKGIT_ERROR_IO, maskgit_read_image("/there/is/no/such/file", &(maskgit_images *){NULL}, &error));
    CHECK(maskgit_images_free(images) == MASKGIT_OK, "freed");
    CHECK(maskgit_images_free(images) == MASKGIT_ERROR_HANDLE, "freed twice");
    CHECK(maskgit_images_count(images) == 0, "freed");
    CHECK_CODE(MASKGIT_ERROR_HANDLE, maskgit_images_get(images, 0, &image, sizeof image, &error));
    CHECK(maskgit_images_free(NULL) == MASKGIT_OK && maskgit_error_free(NULL) == MASKGIT_OK, "NULL is ignored");
    CHECK(maskgit_generator_free(NULL) == MASKGIT_OK && maskgit_cancel_free(NULL) == MASKGIT_OK, "NULL is ignored");
    CHECK(maskgit_cancel_stop(NULL) == MASKGIT_ERROR_NULL, "NULL");
    CHECK(maskgit_error_message(NULL)[0] != '\0' && maskgit_error_code(NULL) == MASKGIT_ERROR_HANDLE, "no error");

    /* What to draw. */
    static const struct { const char *field; double value; } wrong[] = {
        {"label", 3}, {"label", -2}, {"count", 0}, {"count", 10001}, {"steps", 5000}, {"start_iter", 4},
        {"temperature", (double)NAN}, {"guidance", (double)INFINITY},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        options = drawing(0);
        const char *field = wrong[i].field;
        if (strcmp(field, "label") == 0) options.label = (int64_t)wrong[i].value;
        if (strcmp(field, "count") == 0) options.count = (uint32_t)wrong[i].value;
        if (strcmp(field, "steps") == 0) options.steps = (uint32_t)wrong[i].value;
        if (strcmp(field, "start_iter") == 0) options.start_iter = (uint32_t)wrong[i].value;
        if (strcmp(field, "temperature") == 0) options.temperature = (float)wrong[i].value;
        if (strcmp(field, "guidance") == 0) options.guidance = (float)wrong[i].value;
        CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_generate(tiny, &options, &images, &error));
    }
    options = drawing(0);
    options.class_name = "nobody";
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_generate(tiny, &options, &images, &error));
    options.class_name = "\xff\xfe";
    CHECK_CODE(MASKGIT_ERROR_TEXT, maskgit_generate(tiny, &options, &images, &error));
    char *endless = (char *)malloc(70000);
    memset(endless, 'a', 70000);
    endless[69999] = '\0';
    options.class_name = endless;
    CHECK_CODE(MASKGIT_ERROR_TEXT, maskgit_generate(tiny, &options, &images, &error));
    free(endless);
    options = drawing(0);
    options.schedule = "straight";
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_generate(tiny, &options, &images, &error));
    options = drawing(0);
    options.reserved = 1;
    CHECK_CODE(MASKGIT_ERROR_STRUCT, maskgit_generate(tiny, &options, &images, &error));

    /* Settings by name: an unknown one, one that is no JSON, one out of range; a field wins. */
    const char *settings[] = {"{\"stepz\": 3}", "steps = 3", "[]", "{\"corrector_share\": 1}", "{\"steps\": -1}"};
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        options = drawing(0);
        options.sampling = settings[i];
        CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_generate(tiny, &options, &images, &error));
    }
    options = drawing(0);
    uint64_t plain = draw_with(tiny, &options);
    options.sampling = "{\"steps\": 4}";
    CHECK(draw_with(tiny, &options) == plain, "the same steps by name");
    options.sampling = "{\"temperature\": 0, \"choice_temperature\": 0}";
    uint64_t named = draw_with(tiny, &options);
    options.sampling = NULL;
    options.temperature = 0;
    options.choice_temperature = 0;
    CHECK(draw_with(tiny, &options) == named, "a setting by name is the setting by field");
    options.sampling = "{\"temperature\": 3, \"choice_temperature\": 9}";
    CHECK(draw_with(tiny, &options) == named, "a field wins");

    /* Without a class, as the model can. */
    options = drawing(0);
    options.label = MASKGIT_NO_CLASS;
    OK(maskgit_generate(tiny, &options, &images, &error));
    maskgit_images_free(images);
    images = NULL;

    /* Images. */
    options = drawing(0);
    uint8_t pixels[16 * 16 * 3] = {0};
    maskgit_rect box = {0, 0, 4, 4, {0}}, outside = {10, 10, 7, 1, {0}}, reserved = {0, 0, 4, 4, {0, 0, 0, 1}};
    maskgit_pixels good = {pixels, sizeof pixels, 16, 16, 0, MASKGIT_FORMAT_RGB8, {0}}, bad = good;
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_edit(tiny, NULL, NULL, &box, 1, &options, &images, &error));
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_edit(tiny, &good, NULL, NULL, 0, &options, &images, &error));
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_edit(tiny, &good, NULL, NULL, 1, &options, &images, &error));
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_edit(tiny, &good, NULL, &outside, 1, &options, &images, &error));
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_edit(tiny, &good, &good, NULL, 0, &options, &images, &error));
    CHECK_CODE(MASKGIT_ERROR_STRUCT, maskgit_edit(tiny, &good, NULL, &reserved, 1, &options, &images, &error));
    for (size_t i = 0; i < sizeof bad.reserved / sizeof bad.reserved[0]; i++) {
        bad = good, bad.reserved[i] = 1;
        CHECK_CODE(MASKGIT_ERROR_STRUCT, maskgit_edit(tiny, &bad, NULL, &box, 1, &options, &images, &error));
    }
    maskgit_pixels small_mask = {pixels, 64, 8, 8, 0, MASKGIT_FORMAT_GRAY8, {0}};
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_edit(tiny, &good, &small_mask, NULL, 0, &options, &images, &error));
    bad = good;
    bad.data = NULL;
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_edit(tiny, &bad, NULL, &box, 1, &options, &images, &error));
    bad = good, bad.length--;
    CHECK_CODE(MASKGIT_ERROR_SHORT_BUFFER, maskgit_edit(tiny, &bad, NULL, &box, 1, &options, &images, &error));
    bad = good, bad.stride = SIZE_MAX / 8;
    CHECK_CODE(MASKGIT_ERROR_SHORT_BUFFER, maskgit_edit(tiny, &bad, NULL, &box, 1, &options, &images, &error));
    bad = good, bad.width = 0;
    CHECK_CODE(MASKGIT_ERROR_IMAGE, maskgit_edit(tiny, &bad, NULL, &box, 1, &options, &images, &error));
    bad = good, bad.height = 20000;
    CHECK_CODE(MASKGIT_ERROR_IMAGE, maskgit_edit(tiny, &bad, NULL, &box, 1, &options, &images, &error));
    bad = good, bad.format = 9;
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_edit(tiny, &bad, NULL, &box, 1, &options, &images, &error));
    bad = good, bad.format = MASKGIT_FORMAT_GRAY8;
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_reconstruct(tiny, &bad, &images, &error));
    bad = good, bad.width = 8;
    int64_t tokens[16] = {0};
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_encode(tiny, &bad, tokens, 16, NULL, &error));
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_encode(tiny, &good, NULL, 16, NULL, &error));
    CHECK_CODE(MASKGIT_ERROR_MISALIGNED, maskgit_encode(tiny, &good, (int64_t *)(odd + 1), 16, NULL, &error));
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_decode(tiny, tokens, 15, &images, &error));
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_decode(tiny, NULL, 16, &images, &error));
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_vary(tiny, &good, 1.5f, &options, &images, &error));
    maskgit_outpaint_options more;
    maskgit_outpaint_options_init(&more, sizeof more);
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_outpaint(tiny, &good, &more, &options, &images, &error));
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_outpaint(tiny, &good, NULL, &options, &images, &error));
    more.left = 1 << 30;
    CHECK_CODE(MASKGIT_ERROR_IMAGE, maskgit_outpaint(tiny, &good, &more, &options, &images, &error));
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_find_label(tiny, "nobody", &(size_t){0}, &error));
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_find_label(tiny, "warm", NULL, &error));
    free(odd);
}

struct worker {
    maskgit_generator *generator;
    uint64_t first;
    uint64_t sums[5];
};

static void *draw_five(void *user_data) {
    struct worker *worker = user_data;
    for (uint64_t i = 0; i < 5; i++) worker->sums[i] = draw(worker->generator, worker->first + i);
    return NULL;
}

/* Two generators in two threads, then one generator shared by four: every image is the one that it is alone. */
static void test_threads(maskgit_generator *one, maskgit_generator *two) {
    uint64_t expected[20];
    for (uint64_t i = 0; i < 20; i++) expected[i] = draw(one, i);
    CHECK(expected[0] != expected[1], "images of two seeds differ");
    for (int shared = 0; shared < 2; shared++) {
        struct worker workers[4];
        pthread_t threads[4];
        for (size_t t = 0; t < 4; t++) {
            workers[t] = (struct worker){.generator = shared || t % 2 == 0 ? one : two, .first = 5 * t};
            pthread_create(&threads[t], NULL, draw_five, &workers[t]);
        }
        for (size_t t = 0; t < 4; t++) pthread_join(threads[t], NULL);
        for (size_t i = 0; i < 20; i++)
            CHECK(workers[i / 5].sums[i % 5] == expected[i], "seed %zu, shared %d", i, shared);
    }
}

static void *free_it(void *user_data) {
    struct worker *worker = user_data;
    CHECK(maskgit_generator_free(worker->generator) == MASKGIT_OK, "free");
    return NULL;
}

static int32_t free_in_a_thread(const maskgit_progress *progress, void *user_data) {
    struct worker *worker = user_data;
    if (worker->first++ == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, free_it, worker);
        pthread_join(thread, NULL);
    }
    (void)progress;
    return 0;
}

/* A generator that is freed while it draws ends its call first. */
static void test_free_while_drawing(const maskgit_open_options *opening) {
    struct worker worker = {.generator = open_model("tests/data/tiny", opening)};
    maskgit_options options = drawing(4);
    options.progress = free_in_a_thread;
    options.user_data = &worker;
    maskgit_images *images = NULL;
    OK(maskgit_generate(worker.generator, &options, &images, &error));
    CHECK(maskgit_images_count(images) == 1, "the image");
    maskgit_images_free(images);
    CHECK_CODE(MASKGIT_ERROR_HANDLE, maskgit_generate(worker.generator, &options, &images, &error));
}

static void on_log(uint32_t level, const char *message, void *user_data) {
    int *counts = user_data;
    CHECK(level >= MASKGIT_LOG_ERROR && level <= MASKGIT_LOG_DEBUG && strlen(message) > 5, "level %u", level);
    counts[level < 4 ? level : 0]++;
}

static void test_log(void) {
    int counts[4] = {0};
    maskgit_open_options options;
    maskgit_open_options_init(&options, sizeof options);
    options.threads = 1;
    options.log = on_log;
    options.log_user_data = counts;
    maskgit_generator *generator = open_model("tests/data/tiny", &options);
    draw(generator, 1);
    maskgit_images *images = NULL;
    CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_reconstruct(generator, NULL, &images, &error));
    CHECK(counts[MASKGIT_LOG_INFO] == 1 && counts[MASKGIT_LOG_DEBUG] == 1 && counts[MASKGIT_LOG_ERROR] == 1, "%d %d %d",
          counts[1], counts[2], counts[3]);
    maskgit_generator_free(generator);
    generator = NULL;
    CHECK_CODE(MASKGIT_ERROR_IO, maskgit_open("no such folder", &options, &generator, &error));
    CHECK(counts[MASKGIT_LOG_ERROR] == 2, "opening fails: %d", counts[MASKGIT_LOG_ERROR]);
}

/* Bytes in use on the heap; 0 under a tool that has its own heap. tests/c/run switches the lists of freed pieces off
   that the allocator keeps for each thread: what lies there counts as in use, and it changes by kilobytes from run to
   run. */
static size_t in_use(void) {
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static void test_growth(maskgit_generator *tiny, int generations) {
    const char *tunables = getenv("GLIBC_TUNABLES");
    const char *needed = "glibc.malloc.tcache_count=0";
    CHECK(tunables && strstr(tunables, needed), "run this with GLIBC_TUNABLES=%s", needed);
    /* What is made once is made now. */
    for (uint64_t i = 0; i < (uint64_t)generations; i++) draw(tiny, i);
    size_t before = in_use();
    for (int i = 0; i < generations; i++) {
        draw(tiny, (uint64_t)i);
        maskgit_images *images = NULL;
        CHECK_CODE(MASKGIT_ERROR_NULL, maskgit_generate(tiny, NULL, NULL, &error));
        maskgit_options options = drawing(0);
        options.count = 0;
        CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_generate(tiny, &options, &images, &error));
    }
    size_t after = in_use();
    /* The smallest piece of memory takes 32 bytes. */
    CHECK(after < before + 32 * (size_t)generations, "%zu bytes in use before %d generations, %zu after", before,
          generations, after);
    printf("growth: %zu bytes in use, %zu after %d generations\n", before, after, generations);
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    repository = arguments[1];
    maskgit_open_options opening;
    maskgit_open_options_init(&opening, sizeof opening);
    opening.threads = 1;
    maskgit_generator *one = open_model("tests/data/tiny", &opening);
    test_growth(one, atoi(arguments[2]));
    opening.threads = 2;
    maskgit_generator *two = open_model("tests/data/tiny", &opening);
    test_callbacks(one, two);
    test_cancel_from_a_thread(two);
    test_wrong_arguments(one);
    test_images_one_by_one(one);
    test_threads(one, two);
    test_free_while_drawing(&opening);
    test_log();
    CHECK(maskgit_generator_free(one) == MASKGIT_OK && maskgit_generator_free(two) == MASKGIT_OK, "free");
    CHECK(maskgit_generator_free(one) == MASKGIT_ERROR_HANDLE, "freed twice");
    printf("test_calls: %d checks failed\n", check_failures);
    return check_failures != 0;
}
