/* Draws an image: generate MODEL CLASS SEED OUT.png
 *
 *     cc generate.c -o generate $(pkg-config --cflags --libs maskgit)
 *     ./generate models/avatars-64-int8 lorelei 7 lorelei.png
 */
#include <maskgit.h>

#include <stdio.h>
#include <stdlib.h>

static int failed(maskgit_error *error) {
    fprintf(stderr, "generate: %s\n", maskgit_error_message(error));
    maskgit_error_free(error);
    return 1;
}

static int32_t show(const maskgit_progress *progress, void *user_data) {
    (void)user_data;
    fprintf(stderr, "\rstep %u of %u", progress->step, progress->steps);
    return 0; /* anything else stops */
}

int main(int count, char **arguments) {
    if (count != 5) {
        fprintf(stderr, "usage: generate MODEL CLASS SEED OUT.png\n");
        return 2;
    }
    maskgit_error *error = NULL;
    maskgit_generator *generator = NULL;
    if (maskgit_open(arguments[1], NULL, &generator, &error) != MASKGIT_OK) return failed(error);

    maskgit_options options;
    maskgit_options_init(&options, sizeof options);
    options.class_name = arguments[2];
    options.seed = strtoull(arguments[3], NULL, 10);
    options.progress = show;

    maskgit_images *images = NULL;
    maskgit_code code = maskgit_generate(generator, &options, &images, &error);
    fputc('\n', stderr);
    if (code == MASKGIT_OK) code = maskgit_images_save_png(images, 0, arguments[4], &error);

    maskgit_images_free(images);
    maskgit_generator_free(generator);
    return code == MASKGIT_OK ? 0 : failed(error);
}
