/* Faults that a sanitizer or Valgrind must find: proof that it was on. Arguments: the fault, and the repository. */
#include <maskgit.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **arguments) {
    if (count != 3) return 2;
    char path[4096];
    snprintf(path, sizeof path, "%s/tests/data/tiny", arguments[2]);
    maskgit_open_options opening;
    maskgit_open_options_init(&opening, sizeof opening);
    opening.threads = 1;
    maskgit_generator *generator = NULL;
    if (maskgit_open(path, &opening, &generator, NULL) != MASKGIT_OK) return 3;
    maskgit_options options;
    maskgit_options_init(&options, sizeof options);
    options.label = 0;
    maskgit_images *images = NULL;
    if (maskgit_generate(generator, &options, &images, NULL) != MASKGIT_OK) return 3;
    if (strcmp(arguments[1], "overflow") == 0) {
        maskgit_image image;
        maskgit_images_get(images, 0, &image, sizeof image, NULL);
        volatile uint8_t *pixels = malloc(image.pixels.length);
        for (size_t i = 0; i <= image.pixels.length; i++) pixels[i] = 1;
        free((void *)pixels);
    }
    if (strcmp(arguments[1], "leak-images") != 0) maskgit_images_free(images);
    if (strcmp(arguments[1], "leak-generator") != 0) maskgit_generator_free(generator);
    images = NULL;
    generator = NULL;
    return 0;
}
