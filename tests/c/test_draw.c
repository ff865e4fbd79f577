/* Drawing, editing, encoding and decoding through the installed header. Arguments: the repository, a packed bundle, a
   folder to write to. */
#include "check.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

static const char *repository, *packed, *scratch;

static char *in_repository(const char *path) {
    static char buffer[4096];
    snprintf(buffer, sizeof buffer, "%s/%s", repository, path);
    return buffer;
}

static maskgit_generator *open_model(const char *path, uint32_t threads) {
    maskgit_open_options options;
    maskgit_open_options_init(&options, sizeof options);
    options.threads = threads;
    maskgit_generator *generator = NULL;
    OK(maskgit_open(in_repository(path), &options, &generator, &error));
    if (generator == NULL) exit(1);
    return generator;
}

static maskgit_options drawing(const char *class_name, uint64_t seed) {
    maskgit_options options;
    maskgit_options_init(&options, sizeof options);
    options.class_name = class_name;
    options.seed = seed;
    return options;
}

static maskgit_image look(const maskgit_images *images, size_t index) {
    maskgit_image image;
    memset(&image, 0, sizeof image);
    OK(maskgit_images_get(images, index, &image, sizeof image, &error));
    return image;
}

static bool same(const maskgit_pixels *a, const maskgit_pixels *b) {
    return a->width == b->width && a->height == b->height && a->length == b->length && a->length > 0 &&
           memcmp(a->data, b->data, a->length) == 0;
}

static void test_info(maskgit_generator *tiny) {
    maskgit_info info;
    OK(maskgit_get_info(tiny, &info, sizeof info, &error));
    CHECK(info.size == sizeof info, "%zu", info.size);
    CHECK(strcmp(info.name, "tiny") == 0 && strcmp(info.licence, "CC0-1.0") == 0, "%s", info.name);
    CHECK(strcmp(info.precision, "fp32") == 0 && strlen(info.kernels) > 0, "%s", info.precision);
    CHECK(info.width == 16 && info.height == 16 && info.grid_rows == 4 && info.grid_columns == 4, "%u", info.width);
    CHECK(info.codes == 8 && info.mask_id == 8 && info.label_count == 3 && info.steps == 4, "%u", info.codes);
    CHECK(info.has_encoder == 1 && info.has_null_label == 1 && info.load_seconds > 0, "%f", info.load_seconds);
    CHECK(strcmp(maskgit_label_name(tiny, 1), "cool") == 0, "label 1");
    CHECK(maskgit_label_name(tiny, 3) == NULL, "there are three");
    size_t label = 99;
    OK(maskgit_find_label(tiny, "grey", &label, &error));
    CHECK(label == 2, "%zu", label);
    CHECK(maskgit_abi_version() == MASKGIT_ABI_VERSION, "%u", maskgit_abi_version());
    CHECK(strchr(maskgit_version(), '.') != NULL, "%s", maskgit_version());
}

static void test_generate(maskgit_generator *tiny) {
    maskgit_options options = drawing("warm", 5);
    options.count = 3;
    maskgit_images *three = NULL, *one = NULL, *other = NULL;
    OK(maskgit_generate(tiny, &options, &three, &error));
    CHECK(maskgit_images_count(three) == 3, "%zu", maskgit_images_count(three));
    options = drawing(NULL, 7);
    options.label = 0;
    OK(maskgit_generate(tiny, &options, &one, &error));
    maskgit_image last = look(three, 2), alone = look(one, 0);
    CHECK(last.seed == 7 && alone.seed == 7, "%llu", (unsigned long long)last.seed);
    CHECK(same(&last.pixels, &alone.pixels), "image 2 of seed 5 is the image of seed 7");
    CHECK(alone.token_count == 16 && memcmp(last.tokens, alone.tokens, 16 * sizeof(int64_t)) == 0, "tokens");
    CHECK(alone.pixels.stride == 48 && alone.pixels.length == 768, "view");
    CHECK(alone.pixels.format == MASKGIT_FORMAT_RGB8, "%u", alone.pixels.format);
    CHECK(last.index == 2 && alone.index == 0 && alone.opacity == NULL, "%zu", last.index);

    /* Every option reaches the sampler: what it may not be is refused by name. */
    options = drawing("warm", 7);
    options.steps = 2;
    options.schedule = "linear";
    options.sampler = "halton";
    options.temperature = 0.5f;
    options.choice_temperature = 1;
    options.guidance = 1;
    options.guidance_ramp = 1;
    options.top_k = 3;
    OK(maskgit_generate(tiny, &options, &other, &error));
    maskgit_images_free(other);
    options.final_temperature = NAN;
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_generate(tiny, &options, &other, &error));
    /* Shorter than any version of the struct with this number of the interface. */
    options.size = offsetof(maskgit_options, final_temperature);
    CHECK_CODE(MASKGIT_ERROR_STRUCT, maskgit_generate(tiny, &options, &other, &error));

    /* A buffer of the caller, with a gap between rows that stays as it was. */
    uint8_t buffer[70 * 15 + 64];
    memset(buffer, 0xAB, sizeof buffer);
    OK(maskgit_images_copy(one, 0, buffer, sizeof buffer, 70, MASKGIT_FORMAT_RGBA8, &error));
    CHECK(memcmp(buffer, alone.pixels.data, 3) == 0 && buffer[3] == 255 && buffer[64] == 0xAB, "row 0");
    CHECK(memcmp(buffer + 70 * 15 + 60, alone.pixels.data + 768 - 3, 3) == 0, "the last pixel");
    CHECK_CODE(MASKGIT_ERROR_SHORT_BUFFER,
               maskgit_images_copy(one, 0, buffer, sizeof buffer - 1, 70, MASKGIT_FORMAT_RGBA8, &error));

    char path[4096];
    snprintf(path, sizeof path, "%s/one.png", scratch);
    OK(maskgit_images_save_png(one, 0, path, &error));
    maskgit_images *again = NULL;
    OK(maskgit_read_image(path, &again, &error));
    maskgit_image read_back = look(again, 0);
    CHECK(same(&read_back.pixels, &alone.pixels), "a PNG keeps every pixel");
    CHECK(read_back.tokens == NULL && read_back.token_count == 0, "a file has no tokens");
    maskgit_images_free(again);
    maskgit_images_free(three);
    maskgit_images_free(one);
}

static void test_bytes(maskgit_generator *tiny) {
    FILE *file = fopen(packed, "rb");
    CHECK(file != NULL, "%s", packed);
    if (file == NULL) return;
    static uint8_t bytes[1 << 16];
    size_t length = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    CHECK(length > 1000 && length < sizeof bytes, "%zu bytes", length);
    maskgit_options drawn = drawing("grey", 1);
    maskgit_images *expected = NULL;
    OK(maskgit_generate(tiny, &drawn, &expected, &error));
    maskgit_image expected_image = look(expected, 0);
    for (uint32_t borrow = 0; borrow < 2; borrow++) {
        maskgit_open_options options;
        maskgit_open_options_init(&options, sizeof options);
        options.threads = 1;
        options.borrow_bytes = borrow;
        options.memory = borrow ? MASKGIT_MEMORY_ONE_AT_A_TIME : MASKGIT_MEMORY_KEEP_ALL;
        uint8_t *copy = malloc(length);
        memcpy(copy, bytes, length);
        maskgit_generator *generator = NULL;
        OK(maskgit_open_bytes(copy, length, &options, &generator, &error));
        if (!borrow) memset(copy, 0, length);
        maskgit_images *images = NULL;
        OK(maskgit_generate(generator, &drawn, &images, &error));
        maskgit_image image = look(images, 0);
        CHECK(same(&image.pixels, &expected_image.pixels), "borrow %u", borrow);
        maskgit_images_free(images);
        CHECK(maskgit_generator_free(generator) == MASKGIT_OK, "free");
        CHECK_CODE(MASKGIT_ERROR_BUNDLE, maskgit_open_bytes(copy, length / 2, &options, &generator, &error));
        CHECK(generator == NULL, "NULL after a failure");
        free(copy);
    }
    maskgit_images_free(expected);
}

/* What is drawn for a fixed seed is what the repository keeps, on every machine. */
static void test_golden(void) {
    maskgit_generator *generator = open_model("models/avatars-64-int8", 2);
    maskgit_options options = drawing("lorelei", 3);
    options.steps = 6;
    maskgit_images *images = NULL;
    OK(maskgit_generate(generator, &options, &images, &error));
    maskgit_image image = look(images, 0);
    FILE *file = fopen(in_repository("tests/golden/avatars-64-int8.json"), "r");
    CHECK(file != NULL && fgetc(file) == '[', "the golden file");
    size_t count = 0;
    long long token;
    while (file != NULL && fscanf(file, "%lld", &token) == 1) {
        CHECK(count < image.token_count && image.tokens[count] == token, "token %zu is not %lld", count, token);
        count++;
        if (fgetc(file) != ',') break;
    }
    CHECK(count == 256 && image.token_count == 256, "%zu tokens", count);
    if (file != NULL) fclose(file);
    maskgit_images_free(images);
    maskgit_generator_free(generator);
}

struct sink {
    const maskgit_image *expected;
    int images, windows, window_count;
};

static int32_t on_image(const maskgit_image *image, void *user_data) {
    struct sink *sink = (struct sink *)user_data;
    const maskgit_image *expected = sink->expected;
    size_t count = (size_t)image->pixels.width * image->pixels.height;
    if (sink->images++ == 0) CHECK(same(&image->pixels, &expected->pixels), "the image");
    CHECK(image->opacity != NULL && memcmp(image->opacity, expected->opacity, count) == 0, "its opacity");
    return 0;
}

static int32_t on_progress(const maskgit_progress *progress, void *user_data) {
    struct sink *sink = (struct sink *)user_data;
    if (progress->event == MASKGIT_PROGRESS_ENCODED) {
        CHECK(progress->done == 0 && progress->windows == (uint32_t)++sink->windows, "%u", progress->windows);
        sink->window_count = (int)progress->window_count;
    }
    return 0;
}

/* The same edit, twice, whose images a callback gets. */
static void test_edit_one_by_one(maskgit_generator *tiny, const maskgit_pixels *image, const maskgit_rect *box,
                                 const maskgit_image *expected) {
    struct sink sink = {expected, 0, 0, 0};
    maskgit_options options = drawing("cool", 2);
    options.feather = 0;
    options.count = 2;
    options.image = on_image;
    options.progress = on_progress;
    options.user_data = &sink;
    OK(maskgit_edit(tiny, image, NULL, box, 1, &options, NULL, &error));
    CHECK(sink.images == 2, "%d images", sink.images);
    CHECK(sink.windows == 1 && sink.window_count == 1, "%d windows of %d", sink.windows, sink.window_count);
}

/* The mask at 200 of 255: the new pixels have that share. The same seed draws the same tokens. */
static void test_soft_mask(maskgit_generator *tiny, const maskgit_pixels *image, const maskgit_pixels *mask,
                           uint8_t *marks, const maskgit_image *full) {
    maskgit_options options = drawing("cool", 2);
    options.feather = 0;
    maskgit_images *images = NULL;
    for (size_t i = 0; i < mask->length; i++) marks[i] = marks[i] ? 200 : 0;
    OK(maskgit_edit(tiny, image, mask, NULL, 0, &options, &images, &error));
    maskgit_image soft = look(images, 0);
    for (size_t y = 0; y < mask->height; y++)
        for (size_t x = 0; x < 3 * (size_t)mask->width; x++) {
            int old = image->data[y * image->stride + x / 3 * 4 + x % 3];
            int drawn = full->pixels.data[y * full->pixels.stride + x];
            double expected = old + (drawn - old) * (marks[y * mask->width + x / 3] / 255.0);
            double found = soft.pixels.data[y * soft.pixels.stride + x];
            CHECK(found > expected - 1.01 && found < expected + 1.01, "%zu,%zu: %f is not %f", x, y, found, expected);
        }
    maskgit_images_free(images);
}

static void test_edit(maskgit_generator *tiny) {
    enum { WIDTH = 40, HEIGHT = 24, STRIDE = WIDTH * 4 + 5 };
    uint8_t rgba[STRIDE * HEIGHT], marks[WIDTH * HEIGHT] = {0}, result[WIDTH * HEIGHT * 4];
    for (size_t y = 0; y < HEIGHT; y++)
        for (size_t x = 0; x < WIDTH; x++) {
            uint8_t *pixel = rgba + y * STRIDE + 4 * x;
            pixel[0] = (uint8_t)(x * 6), pixel[1] = (uint8_t)(y * 9), pixel[2] = 77, pixel[3] = (uint8_t)(200 + x);
        }
    maskgit_pixels image = {rgba, sizeof rgba, WIDTH, HEIGHT, STRIDE, MASKGIT_FORMAT_RGBA8, {0}};
    maskgit_options options = drawing("cool", 2);
    options.feather = 0;
    maskgit_rect box = {8, 4, 10, 8, {0}};
    for (size_t y = 4; y < 12; y++) memset(marks + y * WIDTH + 8, 255, 10);
    maskgit_pixels mask = {marks, sizeof marks, WIDTH, HEIGHT, 0, MASKGIT_FORMAT_GRAY8, {0}};
    maskgit_images *by_box = NULL, *by_mask = NULL;
    OK(maskgit_edit(tiny, &image, NULL, &box, 1, &options, &by_box, &error));
    OK(maskgit_edit(tiny, &image, &mask, NULL, 0, &options, &by_mask, &error));
    maskgit_image a = look(by_box, 0), b = look(by_mask, 0);
    CHECK(same(&a.pixels, &b.pixels), "a box and its mask are the same edit");
    CHECK(a.pixels.width == WIDTH && a.pixels.height == HEIGHT, "%ux%u", a.pixels.width, a.pixels.height);
    OK(maskgit_images_copy(by_box, 0, result, sizeof result, 0, MASKGIT_FORMAT_RGBA8, &error));
    size_t changed = 0;
    for (size_t y = 0; y < HEIGHT; y++)
        for (size_t x = 0; x < WIDTH; x++) {
            const uint8_t *before = rgba + y * STRIDE + 4 * x, *after = result + (y * WIDTH + x) * 4;
            bool inside = x >= 8 && x < 18 && y >= 4 && y < 12;
            CHECK(inside || memcmp(before, after, 3) == 0, "pixel %zu,%zu changed outside", x, y);
            CHECK(before[3] == after[3], "opacity of %zu,%zu", x, y);
            changed += memcmp(before, after, 3) != 0;
        }
    CHECK(changed > 40, "%zu pixels changed", changed);
    CHECK(a.opacity != NULL && a.opacity[0] == 200 && a.opacity[WIDTH] == 200 && a.opacity[7] == 207, "opacity");
    test_edit_one_by_one(tiny, &image, &box, &a);
    test_soft_mask(tiny, &image, &mask, marks, &a);
    maskgit_images_free(by_box);
    maskgit_images_free(by_mask);

    maskgit_outpaint_options more;
    maskgit_outpaint_options_init(&more, sizeof more);
    more.left = 6;
    more.bottom = 10;
    maskgit_images *images = NULL;
    OK(maskgit_outpaint(tiny, &image, &more, &options, &images, &error));
    maskgit_image wide = look(images, 0);
    CHECK(wide.pixels.width == WIDTH + 6 && wide.pixels.height == HEIGHT + 10, "%ux%u", wide.pixels.width,
          wide.pixels.height);
    uint8_t extended[(WIDTH + 6) * (HEIGHT + 10) * 4];
    OK(maskgit_images_copy(images, 0, extended, sizeof extended, 0, MASKGIT_FORMAT_RGBA8, &error));
    CHECK(memcmp(extended + (10 + 6) * 4, rgba + 10 * 4, 4) == 0, "the old image keeps its place");
    CHECK(extended[3] == 255, "what is new is opaque");
    maskgit_images_free(images);

    options.label = MASKGIT_NO_CLASS;
    options.class_name = NULL;
    OK(maskgit_vary(tiny, &image, 0.5f, &options, &images, &error));
    maskgit_image varied = look(images, 0);
    CHECK(varied.pixels.width == WIDTH && varied.token_count == 16, "%u", varied.pixels.width);
    maskgit_images_free(images);
    OK(maskgit_reconstruct(tiny, &image, &images, &error));
    maskgit_image reconstructed = look(images, 0);
    CHECK(reconstructed.pixels.height == HEIGHT && reconstructed.token_count == 16, "%u", reconstructed.pixels.height);
    CHECK(reconstructed.fit >= 0 && reconstructed.fit < 255, "%f", (double)reconstructed.fit);
    maskgit_images_free(images);
}

static void test_tokens(maskgit_generator *tiny) {
    maskgit_options options = drawing("warm", 9);
    maskgit_images *drawn = NULL, *decoded = NULL;
    OK(maskgit_generate(tiny, &options, &drawn, &error));
    maskgit_image image = look(drawn, 0);
    OK(maskgit_decode(tiny, image.tokens, image.token_count, &decoded, &error));
    maskgit_image again = look(decoded, 0);
    CHECK(same(&image.pixels, &again.pixels), "decoding the tokens gives the image");
    maskgit_images_free(decoded);
    int64_t tokens[16];
    size_t count = 0;
    OK(maskgit_encode(tiny, &image.pixels, tokens, 16, &count, &error));
    CHECK(count == 16, "%zu", count);
    for (size_t i = 0; i < 16; i++) CHECK(tokens[i] >= 0 && tokens[i] < 8, "token %lld", (long long)tokens[i]);
    count = 0;
    CHECK_CODE(MASKGIT_ERROR_SHORT_BUFFER, maskgit_encode(tiny, &image.pixels, tokens, 15, &count, &error));
    CHECK(count == 16, "the number that is needed");
    tokens[3] = 8;
    CHECK_CODE(MASKGIT_ERROR_REQUEST, maskgit_decode(tiny, tokens, 16, &decoded, &error));
    CHECK(decoded == NULL, "NULL after a failure");
    maskgit_images_free(drawn);
}

int main(int count, char **arguments) {
    if (count != 4) return 2;
    repository = arguments[1];
    packed = arguments[2];
    scratch = arguments[3];
    maskgit_generator *tiny = open_model("tests/data/tiny", 1);
    test_info(tiny);
    test_generate(tiny);
    test_bytes(tiny);
    test_edit(tiny);
    test_tokens(tiny);
    maskgit_generator_free(tiny);
    test_golden();
    printf("test_draw: %d checks failed\n", check_failures);
    return check_failures != 0;
}
