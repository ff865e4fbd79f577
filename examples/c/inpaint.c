/* Repaints a box of an image: inpaint MODEL IMAGE CLASS X Y WIDTH HEIGHT OUT.png
 *
 *     cc inpaint.c -o inpaint $(pkg-config --cflags --libs maskgit)
 *     ./inpaint models/avatars-64-int8 face.png lorelei 8 0 48 20 hair.png
 */
#include <maskgit.h>

#include <stdio.h>
#include <stdlib.h>

static uint32_t number(const char *text) {
    return (uint32_t)strtoul(text, NULL, 10);
}

int main(int count, char **arguments) {
    if (count != 9) {
        fprintf(stderr, "usage: inpaint MODEL IMAGE CLASS X Y WIDTH HEIGHT OUT.png\n");
        return 2;
    }
    maskgit_error *error = NULL;
    maskgit_generator *generator = NULL;
    maskgit_images *source = NULL, *edited = NULL;
    maskgit_image image;
    maskgit_rect box = {.x = number(arguments[4]), .y = number(arguments[5]), .width = number(arguments[6]),
                        .height = number(arguments[7])};

    maskgit_options options;
    maskgit_options_init(&options, sizeof options);
    options.class_name = arguments[3];

    /* Each step runs when the ones before it worked. A camera's frame would take the place of the file: set a
       maskgit_pixels to it. */
    maskgit_code code = maskgit_open(arguments[1], NULL, &generator, &error);
    if (code == MASKGIT_OK) code = maskgit_read_image(arguments[2], &source, &error);
    if (code == MASKGIT_OK) code = maskgit_images_get(source, 0, &image, sizeof image, &error);
    if (code == MASKGIT_OK) code = maskgit_edit(generator, &image.pixels, NULL, &box, 1, &options, &edited, &error);
    if (code == MASKGIT_OK) code = maskgit_images_save_png(edited, 0, arguments[8], &error);
    if (code != MASKGIT_OK) {
        fprintf(stderr, "inpaint: %s\n", maskgit_error_message(error));
        maskgit_error_free(error);
    }
    maskgit_images_free(edited);
    maskgit_images_free(source);
    maskgit_generator_free(generator);
    return code == MASKGIT_OK ? 0 : 1;
}
