/* handlers.h - what the rows of the route table run: the work of stages 2 and 3, and the answers.
 */
#ifndef SERVER_HANDLERS_H
#define SERVER_HANDLERS_H

#include <microhttpd.h>

struct request;

/* generate.c */
void work_generate(struct request *r);
enum MHD_Result finish_generate(struct request *r);

/* responses.c */
enum MHD_Result finish_response_get(struct request *r);
enum MHD_Result finish_response_delete(struct request *r);
enum MHD_Result finish_response_post(struct request *r);

/* handlers.c */
void work_count(struct request *r);
void work_models(struct request *r);
void work_model(struct request *r);
void work_tokenize(struct request *r);
void work_detokenize(struct request *r);
void work_apply_template(struct request *r);
enum MHD_Result finish_json(struct request *r);
enum MHD_Result finish_ready(struct request *r);
enum MHD_Result finish_live(struct request *r);
enum MHD_Result finish_version(struct request *r);
enum MHD_Result finish_metrics(struct request *r);
enum MHD_Result finish_usage(struct request *r);

/* files.c */
enum MHD_Result finish_file_upload(struct request *r);
enum MHD_Result finish_file_list(struct request *r);
enum MHD_Result finish_file_get(struct request *r);
enum MHD_Result finish_file_content(struct request *r);
enum MHD_Result finish_file_delete(struct request *r);

/* batches.c */
enum MHD_Result finish_batch_create(struct request *r);
enum MHD_Result finish_batch_list(struct request *r);
enum MHD_Result finish_batch_get(struct request *r);
enum MHD_Result finish_batch_cancel(struct request *r);

/* page.c */
enum MHD_Result finish_page(struct request *r);

#endif
